package broker

import (
	"errors"
	"net/url"
	"strings"
	"testing"
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
		"redis://user:s3cret@host\n":                  "an unreadable URL",
		"\x7fredis://user:s3cret@host":                "an unreadable URL",
		"":                                            "",
		"/var/run/redis.sock":                         "/var/run/redis.sock",
		"unix://user:s3cret@/var/run/redis.sock?db=1": "unix:///var/run/redis.sock",
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
	const give = ": give redis://HOST:PORT/DB"
	for raw, want := range map[string]string{
		"":                             `it begins with ""` + give + ", or rediss:// for TLS",
		"host:6379":                    `it begins with "host"` + give + ", or rediss:// for TLS",
		"http://host:6379/0":           `it begins with "http"` + give + ", or rediss:// for TLS",
		"redis-sentinel://host":        `it begins with "redis-sentinel"` + give + ", or rediss:// for TLS",
		"127.0.0.1:6379":               "it cannot be read" + give,
		"redis://host:port":            "it cannot be read" + give,
		"redis:host:6379":              "the // behind redis: is missing" + give,
		"redis://u:12/34@host/0":       "there is an @ behind its host: write / ? # @ in a password as %2F %3F %23 %40",
		"redis://u:p@host/x":           `redis://host/x: invalid database number: "x"`,
		"redis://u:p@host/1/2":         "redis://host/1/2: invalid URL path: /1/2",
		"redis://u:p@host/0?colour=1":  "redis://host/0: unexpected option: colour",
		"redis://u:p@host/0?db=eleven": `redis://host/0: invalid database number: strconv.Atoi: parsing "eleven": invalid syntax`,
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
		"redis://host:7000/3":             {addr: "host:7000", db: 3},
		"redis://[::1]:7000":              {addr: "[::1]:7000"},
		"redis://:p%2F%40%23@host/0":      {addr: "host:6379", password: "p/@#"},
		"rediss://user:p@host:6380/1":     {addr: "host:6380", user: "user", password: "p", db: 1, tls: true},
		"redis://user:a@b@host?db=2":      {addr: "host:6379", user: "user", password: "a@b", db: 2},
		"redis://host/0?client_name=a%40": {addr: "host:6379"},
	} {
		opt, err := parseURL(raw)
		if err != nil {
			t.Errorf("%q: %v", raw, err)
			continue
		}
		if got := (wanted{opt.Addr, opt.Username, opt.Password, opt.DB, opt.TLSConfig != nil}); got != want {
			t.Errorf("%q: %+v, want %+v", raw, got, want)
		}
	}
}

func TestHasPassword(t *testing.T) {
	for raw, want := range map[string]bool{
		"redis://user:p@host": true, "redis://:p@host": true, "rediss://user:@host": true,
		"redis://host": false, "redis://user@host": false, "": false, "redis://host:port": false, "redis://host/0?a=b:c": false,
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
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	f.Fuzz(func(t *testing.T, scheme, user, rest, behind string) {
		const password = "7S3cret9" // may stand at the beginning of a port
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
