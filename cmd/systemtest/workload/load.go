package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

const (
	personCount = 40 // that all callers share
	hotCount    = 6  // of them, the subject of half of all operations
)

// The number of callers of a [Load]. FewCallers show that a cluster serves, and take little
// CPU time. ManyCallers compete for the same users.
const (
	FewCallers  = 6
	ManyCallers = 24
)

func githubOf(person int) int64 { return 1000 + int64(person) }

// personWord is in every name of a person, and begins no other person's word.
func personWord(person int) string { return fmt.Sprintf("p%05d", person) }

// A Load is many callers that send requests about the same persons.
type Load struct {
	t       *testing.T
	begun   time.Time
	callers []*persistentCaller
	board   board
	marks   atomic.Int64
	fresh   atomic.Int64 // persons of whom one caller alone knows

	over    context.Context // done when no operation is to begin
	stop    context.CancelFunc
	gaveUp  context.Context // done when operations are left open
	giveUp  context.CancelFunc
	running sync.WaitGroup
	done    atomic.Int64 // operations
}

// Start starts a load of so many callers. It ends with the test at the latest.
func Start(t *testing.T, url string, callers int, seed uint64) *Load {
	t.Helper()
	l := &Load{t: t, begun: time.Now(), board: board{persons: make(map[int]*sighting)}}
	l.over, l.stop = context.WithCancel(context.Background())
	l.gaveUp, l.giveUp = context.WithCancel(context.Background())
	l.fresh.Store(personCount)
	for i := range callers {
		l.callers = append(l.callers, &persistentCaller{
			t: t, number: i, url: url, random: rand.New(rand.NewPCG(seed, uint64(i))), asked: make(map[string]*Operation),
		})
	}
	t.Cleanup(func() {
		l.stop()
		l.giveUp()
		l.running.Wait()
	})
	defer time.AfterFunc(harness.Timeout, l.giveUp).Stop()
	l.carryOut(l.callers[0], l.create(rock, rockEmail))
	for _, c := range l.callers {
		l.running.Go(func() {
			defer c.hangUp()
			for l.over.Err() == nil {
				l.carryOut(c, l.next(c.random))
				Pause(l.over, time.Duration(c.random.Int64N(int64(restFor))))
			}
		})
	}
	return l
}

func (l *Load) now() time.Duration { return time.Since(l.begun) }

func (l *Load) carryOut(c *persistentCaller, o *Operation) {
	c.carryOut(l.gaveUp, l.now, o)
	l.board.note(o)
	l.done.Add(1)
}

// Done returns how many operations are done.
func (l *Load) Done() int64 { return l.done.Load() }

// Progress returns a function that reports whether many operations were done since.
func (l *Load) Progress() func() bool {
	before := l.done.Load()
	return func() bool { return l.done.Load() > before+int64(20*len(l.callers)) }
}

// Check ends the load and fails unless each operation has a reply and all histories are
// linearizable.
func (l *Load) Check() {
	l.t.Helper()
	operations := l.Finish()
	Report(l.t, append(CheckAnswered(operations), CheckHistories(operations)...))
}

// Finish ends the load: the callers complete their operations and read each person once
// more. It returns all operations.
func (l *Load) Finish() (all []*Operation) {
	l.t.Helper()
	defer time.AfterFunc(2*harness.Timeout, l.giveUp).Stop()
	l.stop()
	l.running.Wait()
	persons := make(chan int)
	for _, c := range l.callers {
		l.running.Go(func() {
			defer c.hangUp()
			for person := range persons {
				l.carryOut(c, &Operation{kind: "get", person: person})
			}
		})
	}
	for person := range int(l.fresh.Load()) {
		persons <- person
	}
	close(persons)
	l.running.Wait()
	for _, c := range l.callers {
		all = append(all, c.finished...)
	}
	return all
}

// next draws an operation.
func (l *Load) next(random *rand.Rand) *Operation {
	person := 1 + random.IntN(personCount-1)
	if random.IntN(2) == 0 {
		person = 1 + random.IntN(hotCount)
	}
	if random.IntN(40) == 0 {
		person = int(l.fresh.Add(1)) - 1
		return l.create(person, "")
	}
	user, former := l.board.look(person)
	o := &Operation{person: person, kind: "get"}
	if user.ID == 0 {
		switch {
		case random.IntN(3) > 0:
			return l.create(person, "")
		case former != 0 && random.IntN(2) == 0:
			o.id = former
			if random.IntN(4) == 0 {
				o.kind = "get_many"
			}
		}
		return o
	}
	switch n := random.IntN(100); {
	case n < 24:
		o.id = user.ID
	case n < 30:
		o.email = user.Email
	case n < 34:
		o.id, o.email = user.ID, user.Email
	case n < 38: // by the account with GitHub
	case n < 42:
		o.kind, o.id = "get_many", user.ID
	case n < 46:
		o.kind = "list"
	case n < 84:
		o.kind, o.id = "patch", user.ID
		l.patch(random, o, user)
	case n < 90:
		o.kind, o.id = "delete", user.ID
	case n < 92 && former != 0:
		o.kind, o.id = "delete", former
	case n < 94 && former != 0:
		o.kind, o.id = "patch", former
		l.patch(random, o, user)
	case n == 99:
		return l.create(person, rockEmail)
	default:
		return l.create(person, "")
	}
	return o
}

func (l *Load) mark(person int) string {
	return fmt.Sprintf("s3cret %s %d", personWord(person), l.marks.Add(1))
}

// create returns an operation that creates a person. If email is "", the person gets an
// email that no person had before.
func (l *Load) create(person int, email string) *Operation {
	n := l.marks.Add(1)
	o := &Operation{kind: "create", person: person, mark: l.mark(person)}
	if email == "" {
		email = fmt.Sprintf("%d@secret.example", n)
	}
	o.user = View{Name: o.mark, Email: email, Github: githubOf(person), token: fmt.Sprintf("s3cret-%d", n)}
	return o
}

// patch makes o a patch of a user as it was last seen. Each patch gives the user a new
// name; some change more.
func (l *Load) patch(random *rand.Rand, o *Operation, user View) {
	o.mark = l.mark(o.person)
	if random.IntN(5) < 2 {
		o.ops = append(o.ops, op("test", "/name", user.Name))
	}
	o.ops = append(o.ops, op("replace", "/name", o.mark))
	n := l.marks.Add(1)
	switch random.IntN(10) {
	case 0:
		o.ops = append(o.ops, op("replace", "/email", fmt.Sprintf("%d@secret.example", n)))
	case 1:
		o.ops = append(o.ops, op("add", "/picture_url", fmt.Sprintf("https://secret.example/%d", n)))
	case 2:
		o.ops = append(o.ops, op("remove", "/picture_url"))
	case 3:
		o.ops = append(o.ops, op("replace", "/github/access_token", fmt.Sprintf("s3cret-%d", n)))
	case 4:
		o.ops = append(o.ops, op("add", "/facebook", dict{"id": n, "access_token": fmt.Sprintf("s3cret-%d", n)}))
	case 5:
		o.ops = append(o.ops, op("remove", "/facebook"))
	case 6:
		if random.IntN(5) == 0 {
			o.ops = append(o.ops, op("replace", "/email", rockEmail))
		}
	}
}

// A board holds the state of each person that a caller saw last. It may be out of date.
type board struct {
	mu      sync.Mutex // guards the following field
	persons map[int]*sighting
}

// A sighting is the latest state of a person that a caller saw.
type sighting struct {
	user   View
	former []int64 // ids of the users that the person was
}

// look returns the user that the person was when last seen, and an earlier user id of the
// person. They are the zero view and 0 if there are none.
func (b *board) look(person int) (user View, former int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.persons[person]
	if s == nil {
		return View{}, 0
	}
	if len(s.former) > 0 {
		former = s.former[len(s.former)-1]
	}
	return s.user, former
}

// note records what an operation has shown.
func (b *board) note(o *Operation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.persons[o.person]
	if s == nil {
		s = new(sighting)
		b.persons[o.person] = s
	}
	concerns := o.id == 0 || o.id == s.user.ID
	switch {
	case o.open:
	case o.reply.code == "not_found" && concerns && o.email == "", o.kind == "delete" && o.reply.code == "" && concerns:
		if id := s.user.ID; id != 0 && !slices.Contains(s.former, id) {
			s.former = append(s.former, id)
		}
		s.user = View{}
	case o.reply.code != "":
	case o.kind == "get":
		s.user = o.reply.user
	case o.kind == "create":
		s.user, _ = o.does(View{})
	case o.kind == "patch" && concerns:
		s.user, _ = o.does(s.user)
	}
}
