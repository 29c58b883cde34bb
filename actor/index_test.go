package actor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func ptr[T any](v T) *T { return &v }

func TestAWarmUserIsFoundByWhatTheUserHasNow(t *testing.T) {
	c := NewCache(roomy)
	defer c.Close()
	c.SetTrusted(true)
	p := testPartition(t, newFakeStore(), c, 1)
	keep := func(u User) { c.put(p, &u, UserReply(&u), c.generation()) }
	found := func(l Lookup) int64 {
		id := c.FindID(&l)
		if id == 0 || p.GetCached(id, &l) == nil {
			return 0
		}
		return id
	}
	email := func(email string) int64 { return found(Lookup{Email: &email}) }
	github := func(id int64) int64 { return found(Lookup{GitHubID: &id}) }
	facebook := func(id int64) int64 { return found(Lookup{FacebookID: &id}) }

	keep(User{ID: 1, Email: "a", GitHub: &Account{ID: 7}})
	keep(User{ID: 2, Email: "b", GitHub: &Account{ID: 8}, Facebook: &Account{ID: 7}})
	if email("a") != 1 || github(7) != 1 || facebook(7) != 2 || github(8) != 2 || email("c") != 0 || github(0) != 0 || facebook(8) != 0 {
		t.Error("the wrong ones are found")
	}
	// The email passes on to the other, in whichever order that is learned.
	keep(User{ID: 2, Email: "a", GitHub: &Account{ID: 8}})
	keep(User{ID: 1, Email: "c", GitHub: &Account{ID: 7}})
	if email("a") != 2 || email("b") != 0 || email("c") != 1 || facebook(7) != 0 {
		t.Error("what has changed is found as it was")
	}
	// All that is asked for has to hold.
	if found(Lookup{Email: ptr("a"), GitHubID: ptr[int64](8)}) != 2 || found(Lookup{Email: ptr("a"), GitHubID: ptr[int64](7)}) != 0 {
		t.Error("not all that is asked for counts")
	}
	if found(Lookup{UserID: ptr[int64](2), Email: ptr("a")}) != 0 || found(Lookup{Email: ptr("a"), NoMatch: true}) != 0 {
		t.Error("it answers what it is not for")
	}
	c.evict(p, 1)
	if email("c") != 0 || github(7) != 0 || email("a") != 2 {
		t.Error("who is forgotten is found")
	}
	if c.SetTrusted(false); email("a") != 0 {
		t.Error("somebody is found in a cache that is not trusted")
	}
	c.SetTrusted(true)
	if email("a") != 0 {
		t.Error("somebody is found who was forgotten")
	}
	for i := range c.index.shards {
		if s := &c.index.shards[i]; len(s.emails)+len(s.accounts) > 0 {
			t.Errorf("the index has %v, %v", s.emails, s.accounts)
		}
	}
}

func TestAUserWhoIsBeingWrittenToIsNotFoundByOtherKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.before = func(context.Context, int64, *Write) error { time.Sleep(time.Second); return nil }
		c := NewCache(roomy)
		defer c.Close()
		c.SetTrusted(true)
		p := testPartition(t, s, c, 10)
		u := User{ID: 1, Email: "a"}
		c.put(p, &u, UserReply(&u), c.generation())
		l := Lookup{Email: ptr("a")}
		if p.GetCached(1, &l) == nil {
			t.Fatal("the user is not warm")
		}
		if err := p.Write(&Write{UserID: 1}, func(Outcome, error) {}); err != nil {
			t.Fatal(err)
		}
		if p.GetCached(1, &l) != nil {
			t.Error("the user is found while a write is under way")
		}
		p.Stop()
		if p.GetCached(1, &l) != nil {
			t.Error("the user is found when the partition is over")
		}
	})
}
