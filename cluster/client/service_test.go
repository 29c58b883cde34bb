package client_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/glotpod/ident/cluster/client"
)

// TestService runs against the real service.
func TestService(t *testing.T) {
	b := serve(t)
	o := optionsFor(b)
	c := dial(t, o)
	for _, x := range []struct {
		name string
		test func(*testing.T, *client.Client)
	}{
		{"operations", testOperations}, {"errors", testServiceErrors}, {"same_message_id", testSameMessageID},
		{"pages", testPages}, {"changes", testChanges}, {"apply", testApply}, {"watch", testWatch},
	} {
		t.Run(x.name, func(t *testing.T) { x.test(t, c) })
	}
	t.Run("watch_faults", func(t *testing.T) { testWatchFaults(t, b) })
}

// newUser returns a user with an email and account of its own.
func newUser(n int) *client.User {
	return &client.User{
		Name: fmt.Sprint("Ada ", n), Email: fmt.Sprintf("ada-%d@example.org", n), PictureURL: "https://example.org/ada.png",
		GitHub: &client.Account{ID: 1<<62 + int64(n), AccessToken: "token"},
	}
}

// create creates a user and returns it as Get does.
func create(t *testing.T, c *client.Client, n int) *client.User {
	t.Helper()
	u := newUser(n)
	var err error
	if u.ID, err = c.Create(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	return u
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func testOperations(t *testing.T, c *client.Client) {
	u := create(t, c, 1)
	for _, q := range []client.Query{{UserID: u.ID}, {Email: u.Email}, {GitHubID: u.GitHub.ID}, {UserID: u.ID, Email: u.Email}} {
		got, err := c.Get(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, got, u)
	}
	err := c.Patch(t.Context(), u.ID, client.Test("/name", u.Name), client.Replace("/name", "Ada L."), client.Remove("/picture_url"),
		client.Add("/facebook", &client.Account{ID: 7, AccessToken: "f"}), client.Copy("/name", "/picture_url"), client.Move("/picture_url", "/picture_url"))
	if err != nil {
		t.Fatal(err)
	}
	u.Name, u.PictureURL, u.Facebook = "Ada L.", "Ada L.", &client.Account{ID: 7, AccessToken: "f"}
	got, err := c.Get(t.Context(), client.Query{FacebookID: 7})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, got, u)
	if err := c.Patch(t.Context(), u.ID); err != nil {
		t.Error(err)
	}
	if err := c.Delete(t.Context(), u.ID); err != nil {
		t.Error(err)
	}
	_, err = c.Get(t.Context(), client.Query{UserID: u.ID})
	is(t, err, client.ErrNotFound)
}

func testServiceErrors(t *testing.T, c *client.Client) {
	u := create(t, c, 2)
	for _, x := range []struct {
		want error
		do   func(ctx context.Context) error
	}{
		{client.ErrBadRequest, func(ctx context.Context) error { _, err := c.Get(ctx, client.Query{}); return err }},
		{client.ErrNotFound, func(ctx context.Context) error { return c.Delete(ctx, 1<<40) }},
		{client.ErrConflict, func(ctx context.Context) error { _, err := c.Create(ctx, u); return err }},
		{client.ErrPatchFailed, func(ctx context.Context) error { return c.Patch(ctx, u.ID, client.Test("/name", "wrong")) }},
		{client.ErrInvalidPatchResult, func(ctx context.Context) error { return c.Patch(ctx, u.ID, client.Remove("/name")) }},
		{client.ErrOperationNotFound, func(ctx context.Context) error {
			_, err := c.Do(ctx, client.Request{Operation: "nothing", Args: []byte{0x80}})
			return err
		}},
		{client.ErrDecode, func(ctx context.Context) error {
			_, err := c.Do(ctx, client.Request{Operation: "get", Args: []byte{0xc1}})
			return err
		}},
		{client.ErrPositionGone, func(ctx context.Context) error { _, err := c.Changes(ctx, "AgAAAA", 1); return err }},
	} {
		err := x.do(t.Context())
		is(t, err, x.want)
		if refusal, ok := errors.AsType[*client.Error](err); ok && (refusal.Message == "" || refusal.Retryable || refusal.RetryAfter != 0) {
			t.Errorf("the error is %+v", refusal)
		}
	}
}

func testSameMessageID(t *testing.T, c *client.Client) {
	ctx := client.WithMessageID(t.Context(), "of test 3")
	first, err := c.Create(ctx, newUser(3))
	if err != nil {
		t.Fatal(err)
	}
	if second, err := c.Create(ctx, newUser(3)); err != nil || second != first {
		t.Errorf("the users are %d and %d, %v", first, second, err)
	}
	_, err = c.Create(ctx, newUser(4))
	is(t, err, client.ErrBadRequest)
	_, err = c.Create(t.Context(), newUser(3))
	is(t, err, client.ErrConflict)
}

func testPages(t *testing.T, c *client.Client) {
	var ids []int64
	for n := range 5 {
		ids = append(ids, create(t, c, 100+n).ID)
	}
	var listed []int64
	pages := 0
	for page, err := range c.ListPages(t.Context(), client.ListOptions{Name: "ada", AfterID: ids[0] - 1, PageSize: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		pages++
		for _, u := range page.Users {
			if u.GitHub.AccessToken != "" || u.Email == "" {
				t.Errorf("a page has %+v", u)
			}
			listed = append(listed, u.ID)
		}
	}
	if !slices.Equal(listed, ids) || pages != 3 {
		t.Errorf("%d pages have %v, want %v", pages, listed, ids)
	}
	many, err := c.GetMany(t.Context(), []int64{ids[3], 1 << 40, ids[1], ids[3]})
	if err != nil || len(many) != 2 || many[0].ID != ids[1] || many[1].ID != ids[3] || many[0].Email == "" || many[0].GitHub.AccessToken != "" {
		t.Errorf("get_many gives %+v, %v", many, err)
	}
}

// snapshotPosition returns the present position of the log.
func snapshotPosition(t *testing.T, c *client.Client) string {
	t.Helper()
	page, err := c.List(t.Context(), client.ListOptions{PageSize: 1})
	if err != nil || page.After == "" {
		t.Fatal(page, err)
	}
	return page.After
}

func testChanges(t *testing.T, c *client.Client) {
	after := snapshotPosition(t, c)
	u := create(t, c, 5)
	if err := c.Patch(t.Context(), u.ID, client.Replace("/github", client.Account{ID: 1 << 61, AccessToken: "new"})); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), u.ID); err != nil {
		t.Fatal(err)
	}
	u.GitHub.AccessToken = ""
	want := []client.Change{
		{UserID: u.ID, Sequence: 1, Operation: "create", User: u},
		{UserID: u.ID, Sequence: 2, Operation: "patch", Ops: []client.Op{{Op: "replace", Path: "/github/id", Value: int64(1 << 61)}}},
		{UserID: u.ID, Sequence: 3, Operation: "delete"},
	}
	var got []client.Change
	for page, err := range c.ChangePages(t.Context(), after, 2) {
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range page.Changes {
			if change.Time.IsZero() {
				t.Error("a change has no time")
			}
			change.Time = want[0].Time
			got = append(got, change)
		}
	}
	equal(t, got, want)
}

// The differences of a user's changes lead from its create to what get returns.
func testApply(t *testing.T, c *client.Client) {
	after := snapshotPosition(t, c)
	id := create(t, c, 6).ID
	for _, ops := range [][]client.Op{
		{client.Replace("/name", "B"), client.Remove("/picture_url"), client.Add("/facebook", client.Account{ID: 1 << 60, AccessToken: "f"})},
		{client.Copy("/name", "/picture_url"), client.Replace("/facebook/id", int64(1<<60+1)), client.Replace("/email", "6@example.org")},
		{client.Move("/facebook", "/github")}, {},
	} {
		if err := c.Patch(t.Context(), id, ops...); err != nil {
			t.Fatal(err)
		}
	}
	want, err := c.Get(t.Context(), client.Query{UserID: id})
	if err != nil {
		t.Fatal(err)
	}
	want.GitHub.AccessToken = "" // tokens are not in the log
	var got client.User
	for range 2 {
		for page, err := range c.ChangePages(t.Context(), after, 0) {
			if err != nil {
				t.Fatal(err)
			}
			for _, change := range page.Changes {
				if change.Operation == "create" {
					got = *change.User
				} else if err := got.Apply(change.Ops); err != nil {
					t.Fatal(err)
				}
			}
		}
		equal(t, &got, want)
	}
}
