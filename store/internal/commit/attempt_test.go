package commit

import (
	"fmt"
	"slices"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/store/internal/commitstate"
)

// writesTo returns a pending write to a user, with one write for each request id. The id 0
// stands for none.
func writesTo(t *testing.T, user int64, requestIDs ...byte) *pending {
	var writes []*actor.Write
	for _, id := range requestIDs {
		writes = append(writes, &actor.Write{Operation: "patch", UserID: user, RequestID: actor.RequestID{id}})
	}
	p := newPending(t.Context(), partition.Lease{Partition: 1, Epoch: 1}, writes, commitstate.DefaultPatience)
	p.leaveOut(commitstate.LeftOut)
	return p
}

func TestChooseDistinct(t *testing.T) {
	limited := func(p *pending, n int) *pending { p.progress.MaxInAttempt = n; return p }
	for _, c := range []struct {
		name  string
		group []*pending
		want  []int // how many writes of each are in the attempt
	}{
		{"one write", []*pending{writesTo(t, 1, 1)}, []int{1}},
		{"several writes to one user", []*pending{writesTo(t, 1, 1, 2, 0, 0)}, []int{4}},
		{"two users", []*pending{writesTo(t, 1, 1, 2), writesTo(t, 2, 3)}, []int{2, 1}},
		{"one user twice", []*pending{writesTo(t, 1, 1), writesTo(t, 1, 2), writesTo(t, 2, 3)}, []int{1, 0, 1}},
		{"one request id twice", []*pending{writesTo(t, 1, 1), writesTo(t, 2, 1)}, []int{1, 0}},
		{"one request id twice, later", []*pending{writesTo(t, 1, 1, 2), writesTo(t, 2, 3, 2, 4)}, []int{2, 1}},
		{"one request id twice for one user", []*pending{writesTo(t, 1, 1, 2, 1, 3)}, []int{2}},
		{"no request ids", []*pending{writesTo(t, 1, 0, 0), writesTo(t, 2, 0)}, []int{2, 1}},
		{"no user", []*pending{writesTo(t, 0, 1), writesTo(t, 0, 2)}, []int{1, 1}},
		{"halved", []*pending{limited(writesTo(t, 1, 1, 2, 3, 4), 2), writesTo(t, 2, 4)}, []int{2, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			chosen := chooseDistinct(c.group, commitstate.Overtaken)
			for i, p := range c.group {
				if p.inAttempt != c.want[i] || slices.Contains(chosen, p) != (c.want[i] > 0) {
					t.Errorf("pending write %d has %d writes in the attempt, want %d", i, p.inAttempt, c.want[i])
				}
				if c.want[i] == 0 && p.attemptResult != commitstate.Overtaken {
					t.Errorf("pending write %d has the result %d", i, p.attemptResult)
				}
			}
		})
	}
}

func TestFitTransaction(t *testing.T) {
	for _, c := range []struct {
		sizes []int
		want  int
	}{
		{[]int{1}, 1},
		{[]int{2 * maxGroupBytes}, 1},
		{[]int{2 * maxGroupBytes, 1}, 1},
		{[]int{maxGroupBytes - 1, 1, 1}, 2},
		{[]int{1, 1, 1}, 3},
	} {
		t.Run(fmt.Sprint(c.sizes), func(t *testing.T) {
			var writes []*actor.Write
			for _, size := range c.sizes {
				writes = append(writes, &actor.Write{Size: size})
			}
			if got := len(fitTransaction(writes)); got != c.want {
				t.Errorf("%d writes, want %d", got, c.want)
			}
		})
	}
}

func TestMustCommitAlone(t *testing.T) {
	user := &actor.User{ID: 1, Name: "n", Email: "e", GitHub: &actor.Account{ID: 1, AccessToken: "a"}}
	change := func(f func(*actor.User)) *actor.User {
		next := *user
		f(&next)
		return &next
	}
	for _, c := range []struct {
		name    string
		current *actor.User
		d       actor.Decision
		want    bool
	}{
		{"another name", user, actor.Decision{Next: change(func(u *actor.User) { u.Name = "m" })}, false},
		{"another token", user, actor.Decision{Next: change(func(u *actor.User) { u.GitHub = &actor.Account{ID: 1, AccessToken: "b"} })}, false},
		{"an account less", user, actor.Decision{Next: change(func(u *actor.User) { u.GitHub = nil })}, false},
		{"another email", user, actor.Decision{Next: change(func(u *actor.User) { u.Email = "f" })}, true},
		{"another account", user, actor.Decision{Next: change(func(u *actor.User) { u.GitHub = &actor.Account{ID: 2} })}, true},
		{"an account more", user, actor.Decision{Next: change(func(u *actor.User) { u.Facebook = &actor.Account{ID: 1} })}, true},
		{"create", nil, actor.Decision{Next: user}, true},
		{"delete", user, actor.Decision{}, true},
		{"refused", user, actor.Decision{Refusal: &actor.Refusal{Code: actor.PatchFailed}}, false},
		{"internal error", user, actor.Decision{Refusal: &actor.Refusal{Code: actor.InvocationFailed}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := mustCommitAlone(c.current, c.d); got != c.want {
				t.Errorf("%t, want %t", got, c.want)
			}
		})
	}
}
