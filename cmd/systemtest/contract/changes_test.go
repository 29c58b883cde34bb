package contract

import (
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	t.Run("as_notified", testChangesAsNotified)
	t.Run("away", testChangesAway)
	t.Run("position_gone", testChangesPositionGone)
}

// changesAfter returns the changes after a position, which may be nil, from pages of a size.
func changesAfter(t *testing.T, c *harness.Caller, after any, size int) (all list, position string) {
	t.Helper()
	for more := true; more; {
		page := c.Call(t, "changes", dict{"after": after, "page_size": size}).Result(t).(dict)
		changes := page["changes"].(list)
		position, more = page["after"].(string), page["more"].(bool)
		if len(page) != 3 || len(changes) > size || len(changes) < size && more {
			t.Fatalf("a page of %d has %d changes: %v", size, len(changes), page)
		}
		all, after = append(all, changes...), position
	}
	return all, position
}

func testChangesAsNotified(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	heard := s.Subscribe(t)
	if all, _ := changesAfter(t, c, nil, 10); len(all) > 0 {
		t.Errorf("before the first change there are %v", all)
	}

	u := c.Create(t, harness.Changed(harness.NewUser("github"), dict{"name": "s3cret <Ève> & \u2028🦊", "github": dict{"id": int64(math.MaxInt64), "access_token": "s3cret"}}))
	created := heard.Expect(t, harness.CreateKey, harness.AsListed(u))
	var told []list
	notified := []harness.Notification{created}
	for _, p := range []struct{ ops, told list }{
		{list{op("replace", "/github/access_token", "s3cret-new")}, list{}},
		{list{op("replace", "/name", "s3cret B")}, list{op("replace", "/name", "s3cret B")}},
		{list{op("add", "/facebook", dict{"id": int64(1)<<62 + 1, "access_token": "s3cret"})}, list{op("add", "/facebook", dict{"id": int64(1)<<62 + 1})}},
	} {
		c.Call(t, "patch", harness.Patch(u, p.ops...)).Result(t)
		c.Call(t, "patch", harness.Patch(u, op("test", "/name", "wrong"))).IsError(t, "patch_failed") // makes no change
		notified = append(notified, heard.Expect(t, harness.PatchKey, patchNote(u, p.told...)))
		told = append(told, p.told)
	}
	c.Call(t, "delete", dict{"user_id": u["id"]}).Result(t)
	notified = append(notified, heard.Expect(t, harness.DeleteKey, dict{"user_id": u["id"]}))

	for _, size := range []int{1, 2, 1000} {
		all, _ := changesAfter(t, c, nil, size)
		if len(all) != len(notified) {
			t.Fatalf("there are %d changes, want %d: %v", len(all), len(notified), all)
		}
		for i, v := range all {
			change := v.(dict)
			at, err := time.Parse("2006-01-02T15:04:05.000000Z", change["time"].(string))
			if err != nil || !at.Equal(notified[i].CommittedAt) {
				t.Errorf("change %d is of %v, but notified is %v: %v", i+1, change["time"], notified[i].CommittedAt, err)
			}
			want := dict{"user_id": u["id"], "sequence": int64(i + 1), "time": change["time"], "operation": "patch"}
			switch {
			case i == 0:
				want["operation"], want["user"] = "create", harness.AsListed(u)
			case i <= len(told):
				want["ops"] = told[i-1]
			default:
				want["operation"] = "delete"
			}
			if !reflect.DeepEqual(change, harness.Normalize(want)) || notified[i].Sequence != int64(i+1) {
				t.Errorf("got  %v\nwant %v", change, want)
			}
		}
	}
}

// A snapshot and the changes after its position are the users.
func testChangesAway(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	first, second := s.Serve(t), s.Serve(t)
	c := s.NewCaller(t)
	var users list
	for range 6 {
		users = append(users, c.Create(t, harness.NewUser()))
	}
	page := c.Call(t, "list", dict{"page_size": 2}).Result(t).(dict)
	position := page["after"]
	if all, _ := changesAfter(t, c, position, 10); len(all) > 0 {
		t.Errorf("right after the snapshot there are %v", all)
	}
	next := make(map[any]int64)
	for i := range 20 {
		if i == 10 {
			first.Kill(t)
		}
		u := users[i%len(users)].(dict)
		c.Call(t, "patch", harness.Patch(u, op("replace", "/name", "s3cret"))).Result(t)
	}
	all, position2 := changesAfter(t, c, position, 3)
	for _, v := range all {
		change := v.(dict)
		id := change["user_id"]
		if next[id]++; change["sequence"] != next[id]+1 {
			t.Errorf("user %v: change %v follows %d", id, change["sequence"], next[id])
		}
	}
	if len(all) != 20 {
		t.Errorf("%d changes were found, want 20", len(all))
	}
	if again, _ := changesAfter(t, c, position2, 3); len(again) > 0 {
		t.Errorf("after the last change there are %v", again)
	}
	second.CheckOneConnection(t)
}

func testChangesPositionGone(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	_, position := changesAfter(t, c, nil, 10)
	c.Call(t, "patch", harness.Patch(u, op("replace", "/name", "s3cret"))).Result(t)
	c.Call(t, "changes", dict{"after": position}).Result(t)
	goesOn := func(what string) {
		t.Helper()
		gone := c.Call(t, "changes", dict{"after": position})
		gone.IsError(t, "position_gone")
		if gone.Value.(dict)["retryable"] != false {
			t.Errorf("%s: the reply is %v", what, gone.Value)
		}
		page := c.Call(t, "list", dict{}).Result(t).(dict)
		c.Call(t, "changes", dict{"after": page["after"]}).IsResult(t, dict{"changes": list{}, "more": false, "after": page["after"]})
	}
	s.Exec(t, "UPDATE ident_partitions p SET pruned = coalesce((SELECT max(position) FROM ident_log l WHERE l.partition = p.partition), 0)")
	goesOn("after pruning")

	// The position is of an epoch that the database has lost.
	const epochs = 3 << 40
	s.Exec(t, "UPDATE ident_partitions SET pruned = 0")
	s.Exec(t, "UPDATE ident_log SET position = position + $1::bigint", int64(epochs))
	_, position = changesAfter(t, c, nil, 10)
	s.Exec(t, "UPDATE ident_log SET position = position - $1::bigint", int64(epochs))
	goesOn("after lost commits")

	position = "AgAAAA" // of no partition
	goesOn("in another database")
}
