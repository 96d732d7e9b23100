package sweep

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/task"
	"linkcancel/internal/testutil"
)

// wholeDays lets TestClockChange run for a day of 23 hours and one of 25 (make failover).
var wholeDays = os.Getenv("WHOLE_DAYS") != ""

// stream is an API with a new link in every 15th sweep. It lists the latest ones.
type stream struct {
	mu    sync.Mutex
	links int
	swept map[string]int // how often a sweep was completed, by its name
}

// streamed is how many links it lists.
const streamed = 4

func (s *stream) List(_ context.Context, page, _ int) (plexy.Page, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := plexy.Page{HasTotal: true}
	for i := max(0, s.links-streamed); i < s.links; i++ {
		p.Total++
		if page <= 1 {
			p.Links = append(p.Links, plexy.Link{ID: testutil.LinkID(i), Status: "active", ExpiresAt: time.Now().Add(-5 * time.Hour)})
		}
	}
	return p, nil
}

// sweeper makes a sweeper for every minute in Berlin.
func (s *stream) sweeper(c *crew) *Sweeper {
	w := c.sweeper(s)
	w.cfg.Schedule = schedule(c.t, "* * * * *", "Europe/Berlin")
	w.sweep = func(ctx context.Context, l *ledger.Ledger, cfg Config) (Result, error) {
		s.mu.Lock()
		if len(s.swept)%15 == 0 {
			s.links++
		}
		s.mu.Unlock()
		r, err := Run(ctx, l, cfg)
		if err == nil {
			s.mu.Lock()
			s.swept[strings.TrimPrefix(cfg.Name, "scheduled ")]++
			s.mu.Unlock()
		}
		return r, err
	}
	return w
}

// clockChange is a night in which the clocks of Berlin are set.
type clockChange struct {
	at            time.Time
	before, after time.Duration    // what they are ahead of UTC
	night, day    [2]time.Duration // from and to, after it
}

// name is the name of a sweep by the rules of the European Union, not by the time zone's data.
func (n clockChange) name(due time.Time) string {
	ahead := n.before
	if !due.Before(n.at) {
		ahead = n.after
	}
	return fmt.Sprintf("%s+%02d00", due.UTC().Add(ahead).Format("2006-01-02T1504"), int(ahead.Hours()))
}

// Each minute that passes when the clocks are set has one sweep: the hour that is left out has
// none, and the one that comes twice has 120. Workers come and go, and some die in a
// sweep. Of the minutes for which nobody was there, the last one is made up for.
func TestClockChange(t *testing.T) {
	for name, n := range map[string]clockChange{
		"forward": {
			at: time.Date(2000, 3, 26, 1, 0, 0, 0, time.UTC), before: time.Hour, after: 2 * time.Hour,
			night: [2]time.Duration{-time.Hour, time.Hour}, day: [2]time.Duration{-2 * time.Hour, 21 * time.Hour},
		},
		"back": {
			at: time.Date(2000, 10, 29, 1, 0, 0, 0, time.UTC), before: 2 * time.Hour, after: time.Hour,
			night: [2]time.Duration{-90 * time.Minute, 90 * time.Minute}, day: [2]time.Duration{-3 * time.Hour, 22 * time.Hour},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inCrew(t, func(t *testing.T, c *crew) { n.test(c) })
		})
	}
}

func (n clockChange) test(c *crew) {
	api := &stream{swept: map[string]int{}}
	// Servers poll, which makes a fake night long. So workers only plan, and once an hour some run
	// what waits.
	span, late := n.night, sweepLate
	work := func() (stop func()) {
		return c.start(func(ctx context.Context) error { api.sweeper(c).plan(ctx); return nil })
	}
	if wholeDays {
		span, late = n.day, 2*time.Minute
		work = func() (stop func()) { return c.run(api.sweeper(c)) }
	}
	const ahead = 15 * time.Second // of each minute
	begin, end := n.at.Add(span[0]), n.at.Add(span[1])
	testutil.Advance(time.Until(begin) - ahead)
	there := []func(){work(), work()}
	leave := func() { there[0](); there = there[1:] }

	once, dues, tasks := map[string]int{}, map[string]time.Time{}, map[string]string{}
	crashes := 0
	for due := begin; due.Before(end); due = due.Add(time.Minute) {
		testutil.Advance(time.Until(due) - ahead)
		name, minute := n.name(due), int(due.Sub(begin)/time.Minute)
		switch minute % 240 { // nobody is there for eight of them
		case 80:
			leave()
			leave()
		case 88:
			there = append(there, work(), work())
		}
		if gone := minute % 240; gone < 80 || gone >= 87 {
			once[name], dues[name], tasks["sweep:"+name] = 1, due, "completed"
		}
		switch minute % 60 {
		case 10: // for two of them there is one more
			there = append(there, work())
		case 12:
			leave()
		case 59:
			// The first one runs what waits, in order: a sweep is left out if a later one has begun.
			others := []func(){c.run(api.sweeper(c))}
			testutil.Advance(10 * time.Second)
			others = append(others, c.run(api.sweeper(c)))
			if minute%120 == 59 && due.Before(end.Add(-time.Minute)) {
				testutil.Advance(time.Until(due) - 12345*time.Microsecond) // when no server asks for a task
				n.crash(c, due)
				tasks["sweep:"+name+"~1"] = "completed"
				crashes++
			}
			testutil.Advance(time.Until(due) + 44*time.Second)
			for _, stop := range others {
				stop()
			}
			n.settle(c)
		}
	}
	leave()
	leave()

	c.equal("tasks", tasks, c.tasks())
	c.equal("sweeps", once, api.swept)
	c.equal("links in batches", api.links, n.taken(c, dues, late))
	if last := c.sweeps(); !last.Next.Equal(end) || last.Last == nil || !last.Last.Due.Equal(end.Add(-time.Minute)) || !last.Last.OK {
		c.t.Errorf("in the end: %+v", last)
	}
	if n := c.logged("sweep enqueued again"); n != crashes {
		c.t.Errorf("%d sweeps were enqueued again, want %d", n, crashes)
	}
}

// crash lets a worker die that has begun a sweep.
func (n clockChange) crash(c *crew, due time.Time) {
	doc, err := json.Marshal(selection)
	testutil.Must(c.t, err)
	ctx := c.t.Context()
	c.kill(task.Sweep{Name: n.name(due), Due: due, Selection: doc}, func(lease *ledger.SweepLease) {
		id, err := FreeID(ctx, c.l, due.UTC().Add(n.before))
		testutil.Must(c.t, err)
		_, err = lease.Claim(ctx, "", id)
		testutil.Must(c.t, err)
	})
}

// settle ends the batches whose links are no longer listed: all but the latest ones.
func (n clockChange) settle(c *crew) {
	ctx := c.t.Context()
	all, err := c.l.Unfinished(ctx)
	testutil.Must(c.t, err)
	slices.SortFunc(all, func(a, b ledger.Batch) int { return b.Created.Compare(a.Created) })
	for _, b := range all[min(streamed, len(all)):] {
		_, _, err := c.l.AbortNow(ctx, b, history.By{Actor: "test"})
		testutil.Must(c.t, err)
		b, err = c.l.Get(ctx, b.ID)
		testutil.Must(c.t, err)
		testutil.Must(c.t, c.l.Retire(ctx, b, 3*day))
	}
}

// taken counts the links in batches. Each batch is that of a sweep, and was made soon after it was
// due. No two have a sweep or a link in common.
func (n clockChange) taken(c *crew, dues map[string]time.Time, late time.Duration) int {
	c.t.Helper()
	ctx := c.t.Context()
	all, err := c.l.List(ctx)
	testutil.Must(c.t, err)
	has := map[string]string{} // batches by name and by link
	for _, b := range all {
		due, known := dues[strings.TrimPrefix(b.Name, "scheduled ")]
		if took := b.Created.Sub(due); !known || took < 0 || took > late {
			c.t.Errorf("%s, %q, was made %v after it was due", b.ID, b.Name, took)
		}
		for _, one := range append(testutil.Collect(c.t, c.l.AllLinks(ctx, b)), b.Name) {
			if other := has[one]; other != "" {
				c.t.Errorf("%s is in %s and %s", one, other, b.ID)
			}
			has[one] = b.ID
		}
	}
	return len(has) - len(all)
}
