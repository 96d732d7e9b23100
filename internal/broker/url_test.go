package broker

import (
	"cmp"
	"crypto/tls"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"linkcancel/internal/clean"
)

func TestURLInMessagesHasNoPassword(t *testing.T) {
	for raw, want := range map[string]string{
		"redis://127.0.0.1:6379/0":                    "redis://127.0.0.1:6379/0",
		"redis://:s3cret@host:6379/0":                 "redis://host:6379/0",
		"redis://user:s3cret@host/2":                  "redis://host/2",
		"rediss://s3cret@host":                        "rediss://host",
		"redis://user:s3cret@[::1]:6379":              "redis://[::1]:6379",
		"redis://user:s3%2Fcret@host:6379/0":          "redis://host:6379/0",
		"redis://user:a@s3cret@host:6379/0":           "redis://host:6379/0",
		"redis://host:6379/0?password=s3cret":         "redis://host:6379/0",
		"redis://host:6379/0#s3cret":                  "redis://host:6379/0",
		"redis://user:s3cret@host:6379/0?a=b#s3cret":  "redis://host:6379/0",
		"REDIS://user:s3cret@host":                    "redis://host",
		"redis://user:s3cret@host:port/0":             "an unreadable URL",
		"redis://user:s3/cret@host:6379/0":            "an unreadable URL",
		"redis://user:12/s3cret@host:6379/0":          "an unreadable URL",
		"redis://user:12?s3cret@host:6379/0":          "an unreadable URL",
		"redis://user:12#s3cret@host:6379/0":          "an unreadable URL",
		"redis://user:a@12/s3cret@host:6379/0":        "an unreadable URL",
		"redis://user:12/s3cret%40host":               "an unreadable URL",
		"redis:user:s3cret@host:6379":                 "an unreadable URL",
		"redis:/user:s3cret@host:6379":                "an unreadable URL",
		"user:s3cret@host:6379":                       "an unreadable URL",
		":s3cret@host:6379":                           "an unreadable URL",
		"redis://user:s3cret%@host":                   "an unreadable URL",
		"redis://user:s3 cret@host":                   "an unreadable URL",
		"redis://user:s3cret@ho st":                   "an unreadable URL",
		"redis://user:s3cret@host\n":                  "redis://host",
		" \tredis://user:s3cret@host/1\r\n":           "redis://host/1",
		"redis://user:s3\ncret@host":                  "an unreadable URL",
		"redis://user:s3#cret@host:6379/0":            "an unreadable URL",
		"redis://user:s3^cret@host:6379/0":            "an unreadable URL",
		"\x7fredis://user:s3cret@host":                "an unreadable URL",
		"":                                            "",
		"/var/run/redis.sock":                         "/var/run/redis.sock",
		"unix://user:s3cret@/var/run/redis.sock?db=1": "unix:///var/run/redis.sock",

		"redis-sentinel://user:s3cret@a:1,b:2/main/0":               "redis-sentinel://a:1,b:2/main/0",
		"rediss-sentinel://a,[::1]:2/main?sentinel_password=s3cret": "rediss-sentinel://a,[::1]:2/main",
		"redis-cluster://user:s3,s3@a:1,b:2":                        "redis-cluster://a:1,b:2",
		"REDIS-CLUSTER://:s3cret@a:1,b:2":                           "redis-cluster://a:1,b:2",
		"redis-cluster://user:s3,s3/x@a:1,b:2":                      "an unreadable URL",
		"redis-cluster://user:12,s3/x@a:1,b:2":                      "an unreadable URL",
		"redis-cluster://user:s3cret@a:1,b:2,":                      "an unreadable URL",
		"redis-cluster://a:1,user:s3cret@b:2":                       "redis-cluster://b:2",
		"redis-cluster://a:1,s3cret":                                "redis-cluster://a:1,s3cret",
		"redis-cluster:user:s3cret@a:1,b:2":                         "an unreadable URL",
	} {
		if got := safeURL(raw); got != want {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
		if _, err := parseURL(raw); err != nil && strings.Contains(err.Error(), "s3") {
			t.Errorf("%q: the error shows the password: %v", raw, err)
		}
	}
}

func TestURLsThatAreOfNoUse(t *testing.T) {
	const (
		give    = ": give redis://HOST:PORT/DB"
		any     = give + ", redis-sentinel://HOST:PORT,HOST:PORT/MASTER/DB or redis-cluster://HOST:PORT,HOST:PORT, and rediss for TLS"
		giveS   = ": give redis-sentinel://HOST:PORT,HOST:PORT/MASTER/DB"
		giveC   = ": give redis-cluster://HOST:PORT,HOST:PORT"
		hint    = ": is a character of the password not escaped?"
		replica = ": replicas cannot be read from: they lag behind"
	)
	for raw, want := range map[string]string{
		"":                             `it begins with ""` + any,
		"host:6379":                    `it begins with "host"` + any,
		"http://host:6379/0":           `it begins with "http"` + any,
		"redis-sentinels://host":       `it begins with "redis-sentinels"` + any,
		"127.0.0.1:6379":               "it cannot be read" + give,
		"redis://host:port":            "it cannot be read" + give,
		"redis://a:1,b:2/0":            "redis://a:1,b:2/0: it names many hosts: give redis-sentinel://HOST:PORT,HOST:PORT/MASTER/DB or redis-cluster://HOST:PORT,HOST:PORT",
		"redis:host:6379":              "the // behind redis: is missing" + give,
		"redis://u:12/34@host/0":       "there is an @ after its host" + hint,
		"redis://:p#w@host:6379/0":     "it cannot be read" + give + hint,
		"redis://:p%w@host:6379/0":     "it cannot be read" + give + hint,
		"redis://:p?w@host:6379/0":     "it cannot be read" + give + hint,
		"redis://:p/w@host:6379/0":     "it cannot be read" + give + hint,
		"redis://:p w@host:6379/0":     "it cannot be read" + give + hint,
		"redis://:12#w@host:6379/0":    "there is an @ after its host" + hint,
		"redis://:p@host:6379/0#":      "there is a # in it" + hint,
		"redis://u:p@host/x":           `redis://host/x: invalid database number: "x"`,
		"redis://u:p@host/1/2":         "redis://host/1/2: invalid URL path: /1/2",
		"redis://u:p@host/0?colour=1":  "redis://host/0: unexpected option: colour",
		"redis://u:p@host/0?db=eleven": `redis://host/0: invalid database number: strconv.Atoi: parsing "eleven": invalid syntax`,

		"redis-sentinel://a:1,b:2":                     "redis-sentinel://a:1,b:2: it names no master" + giveS,
		"redis-sentinel://a:1,b:2//0":                  "redis-sentinel://a:1,b:2//0: it names no master" + giveS,
		"redis-sentinel://u:p@a:1,/main":               "it cannot be read" + giveS + hint,
		"redis-sentinel://u:p@a:1,b:c/main":            "it cannot be read" + giveS + hint,
		"redis-sentinel://u:p#w@a:1,b:2/main":          "it cannot be read" + giveS + hint,
		"redis-sentinel://a/main?sentinel_password=p%": "redis-sentinel://a/main: its parameters cannot be read" + hint,
		"redis-sentinel://a/main?sentinel_password=p#": "there is a # in it" + hint,
		"redis-sentinel:///main":                       "it cannot be read" + giveS,
		"redis-sentinel:a:1/main":                      "the // behind redis-sentinel: is missing" + giveS,
		"redis-sentinel://a/main/x":                    `redis-sentinel://a/main/x: invalid database number: "x"`,
		"redis-sentinel://a/main/1/2":                  "redis-sentinel://a/main/1/2: invalid URL path: /1/2",
		"redis-sentinel://a/main?master_name=m":        "redis-sentinel://a/main: unexpected option: master_name",
		"redis-sentinel://a/main?colour=1":             "redis-sentinel://a/main: unexpected option: colour",
		"redis-sentinel://a/main?replica_only=true":    "redis-sentinel://a/main" + replica,
		"redis-sentinel://a/main?route_randomly=true":  "redis-sentinel://a/main" + replica,
		"redis-cluster://u:p@a:1,/":                    "it cannot be read" + giveC + hint,
		"redis-cluster://u:p%w@a:1,b:2":                "it cannot be read" + giveC + hint,
		"redis-cluster://":                             "it cannot be read" + giveC,
		"redis-cluster:a:1":                            "the // behind redis-cluster: is missing" + giveC,
		"redis-cluster://a:1,b:2/1":                    "redis-cluster://a:1,b:2/1: a cluster has one database only: leave the path out",
		"redis-cluster://a:1?addr=b:2":                 "redis-cluster://a:1: unexpected option: addr",
		"redis-cluster://a:1?colour=1":                 "redis-cluster://a:1: unexpected option: colour",
		"redis-cluster://a:1?read_only=true":           "redis-cluster://a:1" + replica,
		"rediss-cluster://a:1?route_by_latency=true":   "rediss-cluster://a:1" + replica,
		"rediss-cluster://u:12/34@a:1,b:2?read_only=1": "there is an @ after its host" + hint,
	} {
		_, err := parseURL(raw)
		if !errors.Is(err, ErrURL) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", raw, err, want)
		}
	}
}

func TestURLsThatAreOfUse(t *testing.T) {
	type wanted struct {
		addr, user, password string
		db                   int
		tls                  bool
	}
	for raw, want := range map[string]wanted{
		DefaultURL:                        {addr: "127.0.0.1:6379"},
		"redis://host":                    {addr: "host:6379"},
		" redis://:p@host/1\r\n":          {addr: "host:6379", password: "p", db: 1},
		"redis://host:7000/3":             {addr: "host:7000", db: 3},
		"redis://[::1]:7000":              {addr: "[::1]:7000"},
		"redis://:p%2F%40%23@host/0":      {addr: "host:6379", password: "p/@#"},
		"rediss://user:p@host:6380/1":     {addr: "host:6380", user: "user", password: "p", db: 1, tls: true},
		"redis://user:a@b@host?db=2":      {addr: "host:6379", user: "user", password: "a@b", db: 2},
		"redis://host/0?client_name=a%40": {addr: "host:6379"},
	} {
		to, err := parseURL(raw)
		if err != nil || to.single == nil || to.sentinel != nil || to.cluster != nil {
			t.Errorf("%q: %+v, %v", raw, to, err)
			continue
		}
		opt := to.single
		if got := (wanted{opt.Addr, opt.Username, opt.Password, opt.DB, opt.TLSConfig != nil}); got != want {
			t.Errorf("%q: %+v, want %+v", raw, got, want)
		}
	}
}

func TestURLsOfSentinels(t *testing.T) {
	type wanted struct {
		addrs, master, user, password, sentinelUser, sentinelPassword string
		db, pool                                                      int
		tls                                                           bool
	}
	for raw, want := range map[string]wanted{
		"redis-sentinel://a/main":                           {addrs: "a:26379", master: "main"},
		"REDIS-sentinel://a:1,b,[::1]:3,[::2]/my.main-1_/2": {addrs: "a:1 b:26379 [::1]:3 [::2]:26379", master: "my.main-1_", db: 2},
		"rediss-sentinel://u:p%2F,@a,b/main/?pool_size=7":   {addrs: "a:26379 b:26379", master: "main", user: "u", password: "p/,", tls: true, pool: 7},
		"redis-sentinel://:p@a/main?sentinel_username=s&sentinel_password=t%2F": {
			addrs: "a:26379", master: "main", password: "p", sentinelUser: "s", sentinelPassword: "t/"},
	} {
		to, err := parseURL(raw)
		if err != nil || to.single != nil || to.sentinel == nil || to.cluster != nil {
			t.Errorf("%q: %+v, %v", raw, to, err)
			continue
		}
		o := to.sentinel
		got := wanted{strings.Join(o.SentinelAddrs, " "), o.MasterName, o.Username, o.Password, o.SentinelUsername, o.SentinelPassword,
			o.DB, o.PoolSize, o.TLSConfig != nil}
		if got != want {
			t.Errorf("%q: %+v, want %+v", raw, got, want)
		}
		if o.TLSConfig != nil && (o.TLSConfig.ServerName != "" || o.TLSConfig.InsecureSkipVerify || o.TLSConfig.MinVersion < tls.VersionTLS12) {
			t.Errorf("%q: TLS %+v", raw, o.TLSConfig)
		}
	}
}

func TestURLsOfClusters(t *testing.T) {
	type wanted struct {
		addrs, user, password string
		tls                   bool
	}
	for raw, want := range map[string]wanted{
		"redis-cluster://a":                   {addrs: "a:6379"},
		"redis-cluster://a:1,b,[::1]:3,[::2]": {addrs: "a:1 b:6379 [::1]:3 [::2]:6379"},
		"redis-cluster://a/":                  {addrs: "a:6379"},
		"rediss-cluster://u:p%2F,@a,b/0":      {addrs: "a:6379 b:6379", user: "u", password: "p/,", tls: true},
	} {
		to, err := parseURL(raw)
		if err != nil || to.single != nil || to.sentinel != nil || to.cluster == nil {
			t.Errorf("%q: %+v, %v", raw, to, err)
			continue
		}
		o := to.cluster
		if got := (wanted{strings.Join(o.Addrs, " "), o.Username, o.Password, o.TLSConfig != nil}); got != want {
			t.Errorf("%q: %+v, want %+v", raw, got, want)
		}
		if o.TLSConfig != nil && (o.TLSConfig.ServerName != "" || o.TLSConfig.InsecureSkipVerify || o.TLSConfig.MinVersion < tls.VersionTLS12) {
			t.Errorf("%q: TLS %+v", raw, o.TLSConfig)
		}
	}
}

func TestPasswordsBesideTheURL(t *testing.T) {
	for _, raw := range []string{"redis://:old@a", "redis-sentinel://:old@a/main?sentinel_password=older", "redis-cluster://:old@a"} {
		for _, cfg := range []Config{{}, {Password: "new", SentinelPassword: "newer"}} {
			to, err := parseURL(raw)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Secrets = &clean.Secrets{}
			to.configure(cfg)
			want, wantSentinel := cmp.Or(cfg.Password, "old"), cmp.Or(cfg.SentinelPassword, "older")
			var got string
			var dial time.Duration
			switch {
			case to.single != nil:
				got, dial = to.single.Password, to.single.DialTimeout
			case to.sentinel != nil:
				got, dial = to.sentinel.Password, to.sentinel.DialTimeout
				if to.sentinel.SentinelPassword != wantSentinel {
					t.Errorf("%q, %+v: %q for the Sentinels", raw, cfg, to.sentinel.SentinelPassword)
				}
			case to.cluster != nil:
				got, dial = to.cluster.Password, to.cluster.DialTimeout
			}
			if got != want || dial != dialTimeout {
				t.Errorf("%q, %+v: %q, %v", raw, cfg, got, dial)
			}
		}
	}
}

func TestPoolSizeOfTheURL(t *testing.T) {
	to, err := parseURL("redis://a?pool_size=3")
	if err != nil {
		t.Fatal(err)
	}
	to.configure(Config{Secrets: &clean.Secrets{}})
	if to.single.PoolSize != 3 {
		t.Errorf("a pool of %d", to.single.PoolSize)
	}
}

func TestHasPassword(t *testing.T) {
	for raw, want := range map[string]bool{
		"redis://user:p@host": true, "redis://:p@host": true, "rediss://user:@host": true,
		"redis://host": false, "redis://user@host": false, "": false, "redis://host:port": false, "redis://host/0?a=b:c": false,
		"redis-sentinel://:p@a:1,b:2/m": true, "redis-sentinel://a:1,b:2/m?sentinel_password=p": true, "rediss-cluster://u:p@a:1,b:2": true,
		"redis-sentinel://u@a:1,b:2/m?sentinel_username=p": false, "redis-cluster://a:1,b:2": false, "redis-cluster://a,": false,
	} {
		if got := HasPassword(raw); got != want {
			t.Errorf("%q: %v", raw, got)
		}
	}
}

// Whatever the password and the rest of the URL, escaped or not: nothing that
// is shown contains the password, and nothing panics.
func FuzzRedisURL(f *testing.F) {
	for _, seed := range [][4]string{
		{"redis", "user", "word", "host:6379/0"},
		{"rediss", "", "/@#?", "[::1]/1?db=x"},
		{"redis", "", "%", "host"},
		{"redis", "a@1/", "", "host/0#f"},
		{"", "", "\n", ""},
		{"redis-sentinel", "user", "a,b", "a:1,b:2/main/0"},
		{"rediss-cluster", "", ",", "[::1]:1,b"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	f.Fuzz(func(t *testing.T, scheme, user, rest, behind string) {
		const password = "7S3cret9" // may look like a port
		if strings.Contains(strings.ToLower(scheme+user+behind), "3cret") {
			return // they are shown
		}
		for _, raw := range []string{
			(&url.URL{Scheme: scheme, User: url.UserPassword(user, password+rest), Host: "host"}).String() + behind,
			scheme + "://" + user + ":" + password + rest + "@" + behind,
			scheme + "://:7" + rest + password + "@" + behind,
			scheme + ":" + user + ":" + password + rest + "@" + behind,
			scheme + "://" + rest + ":" + password + "@" + behind,
		} {
			shown := []string{safeURL(raw)}
			if _, err := parseURL(raw); err != nil {
				shown = append(shown, err.Error())
			}
			_ = HasPassword(raw)
			for _, s := range shown {
				if strings.Contains(strings.ToLower(s), "3cret") {
					t.Errorf("%q shows its password: %q", raw, s)
				}
			}
		}
	})
}
