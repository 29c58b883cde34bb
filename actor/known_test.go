package actor

import (
	"context"
	"reflect"
	"testing"
)

func TestAWriteKnowsTheUserAsTheLastReadOrWriteHasFoundOrLeftHim(t *testing.T) {
	s := newFakeStore()
	var known, stored []*User
	s.before = func(_ context.Context, id int64, w *Write) error {
		if w != nil {
			known, stored = append(known, w.Cached), append(stored, s.user(id))
		}
		return nil
	}
	c := testCache(t, roomy)
	p := testPartition(t, s, c, 10)
	write := func(digest int64) {
		t.Helper()
		done := make(chan error)
		if err := p.Write(&Write{UserID: 1, Digest: digest}, func(_ Outcome, err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	write(5) // he is not known yet
	write(6)
	write(7)
	c.SetTrusted(false)
	write(8)
	c.SetTrusted(true)
	read := make(chan []byte)
	if err := p.Get(1, func(answer []byte, _ error) { read <- answer }); err != nil {
		t.Fatal(err)
	}
	<-read
	write(9)
	for i, want := range []*User{nil, stored[1], stored[2], nil, stored[4]} {
		if got := known[i]; !reflect.DeepEqual(got, want) {
			t.Errorf("the write number %d knows %+v, want %+v", i+1, got, want)
		}
	}
}
