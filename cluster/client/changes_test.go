package client

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tinylib/msgp/msgp"
)

func pack(t *testing.T, v map[string]any) []byte {
	t.Helper()
	b, err := msgp.AppendMapStrIntf(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// serveChanges replies to each request by its after.
func serveChanges(t *testing.T, channel *fakeChannel, replies map[any]map[string]any) {
	go func() {
		for range len(replies) {
			r := <-channel.requests
			args, _, err := msgp.ReadMapStrIntfBytes(r.message.Body, nil)
			if err != nil || r.key != "rpc.user.changes" || fmt.Sprint(args["page_size"]) != "2" {
				t.Errorf("the request is %+v, %v", r, args)
			}
			channel.replies <- amqp.Delivery{CorrelationId: r.message.CorrelationId, Body: pack(t, replies[args["after"]])}
		}
	}()
}

func TestChanges(t *testing.T) {
	change := func(sequence int, more map[string]any) map[string]any {
		c := map[string]any{"user_id": int64(math.MaxInt64), "sequence": int64(sequence), "time": "2026-11-29T07:08:09.000010Z"}
		for k, v := range more {
			c[k] = v
		}
		return c
	}
	page := func(after string, more bool, changes ...any) map[string]any {
		return map[string]any{"result": map[string]any{"after": after, "more": more, "changes": changes}}
	}
	withClient(t, "pages_follow_each_other", func(t *testing.T, c *Client, channel *fakeChannel) {
		serveChanges(t, channel, map[any]map[string]any{
			nil: page("a", true, change(1, map[string]any{"operation": "create", "user": map[string]any{"name": "Ada"}})),
			"a": page("b", true),
			"b": page("c", false, change(2, map[string]any{"operation": "patch", "ops": []any{}}), change(3, map[string]any{"operation": "delete"})),
		})
		at := time.Date(2026, 11, 29, 7, 8, 9, 10_000, time.UTC)
		want := []Change{
			{UserID: math.MaxInt64, Sequence: 1, Operation: "create", Time: at, User: map[string]any{"name": "Ada"}},
			{UserID: math.MaxInt64, Sequence: 2, Operation: "patch", Time: at, Ops: []any{}},
			{UserID: math.MaxInt64, Sequence: 3, Operation: "delete", Time: at},
		}
		var got []Change
		last := ""
		for page, err := range c.ChangePages(t.Context(), "", 2) {
			if err != nil {
				t.Fatal(err)
			}
			got, last = append(got, page.Changes...), page.After
		}
		if !reflect.DeepEqual(got, want) || last != "c" {
			t.Errorf("%+v, %q", got, last)
		}
	})

	withClient(t, "error_reply_ends_the_pages", func(t *testing.T, c *Client, channel *fakeChannel) {
		serveChanges(t, channel, map[any]map[string]any{"a": {"error": PositionGone, "message": "m", "retryable": false}})
		for page, err := range c.ChangePages(t.Context(), "a", 2) {
			var reply *ReplyError
			if !errors.As(err, &reply) || *reply != (ReplyError{Code: PositionGone, Message: "m"}) || page != nil {
				t.Errorf("%+v, %v", page, err)
			}
		}
	})

	withClient(t, "unexpected_reply_is_an_error", func(t *testing.T, c *Client, channel *fakeChannel) {
		for _, reply := range []map[string]any{
			{}, {"result": 1}, {"result": map[string]any{"changes": []any{}}}, page("a", false, 1), page("a", false, map[string]any{"user_id": 1}),
			page("a", false, change(1, map[string]any{"operation": "delete", "time": "now"})),
		} {
			serveChanges(t, channel, map[any]map[string]any{"a": reply})
			if page, err := c.Changes(t.Context(), "a", 2); err == nil {
				t.Errorf("%v is read as %+v", reply, page)
			}
		}
	})
}
