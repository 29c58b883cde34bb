package workload

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// A story is five operations on one person, one after another, as callers and
// subscribers saw them: a create, two patches, a get and a delete.
type story struct {
	create, first, second, get, remove *Operation

	operations []*Operation
	heard      []harness.Notification
}

func newStory() *story {
	const id = 7
	born := View{Name: "0", Email: "e", Github: 1001, token: "t"}
	s := &story{
		create: &Operation{kind: "create", user: born, mark: "0", reply: reply{id: id}},
		first:  &Operation{kind: "patch", id: id, mark: "1", ops: list{op("replace", "/name", "1"), op("add", "/picture_url", "1")}},
		second: &Operation{kind: "patch", id: id, mark: "2", ops: list{op("test", "/name", "1"), op("replace", "/name", "2"), op("remove", "/picture_url")}},
		get:    &Operation{kind: "get", id: id},
		remove: &Operation{kind: "delete", id: id, reply: reply{id: id}},
	}
	s.operations = []*Operation{s.create, s.first, s.second, s.get, s.remove}
	for i, o := range s.operations {
		o.person = 1
		o.call, o.ret = time.Duration(2*i)*time.Second, time.Duration(2*i+1)*time.Second
	}
	born.ID = id
	s.tell(harness.CreateKey, born.shown().tree())
	s.tell(harness.PatchKey, dict{"user_id": int64(id), "ops": list{op("replace", "/name", "1"), op("add", "/picture_url", "1")}})
	s.tell(harness.PatchKey, dict{"user_id": int64(id), "ops": list{op("replace", "/name", "2"), op("remove", "/picture_url")}})
	s.tell(harness.DeleteKey, dict{"user_id": int64(id)})
	born.Name = "2"
	s.get.reply.user = born
	return s
}

// tell adds a notification to the story.
func (s *story) tell(key string, body dict) {
	n := fmt.Sprint(len(s.heard))
	s.heard = append(s.heard, harness.Notification{Key: key, Value: body, Body: []byte(n), MessageID: n, Sequence: int64(len(s.heard) + 1)})
}

// The checks find each anomaly, and no other.
func TestChecks(t *testing.T) {
	const history = "the history is not linearizable"
	for _, c := range []struct {
		what   string
		change func(*story)
		want   string // in a problem; "" for none
	}{
		{"all is well", func(s *story) {}, ""},
		{"a notification that is repeated", func(s *story) { s.heard = slices.Insert(s.heard, 2, s.heard[0], s.heard[1]) }, ""},
		{"an open write that was done", func(s *story) { s.second.open = true }, ""},
		{"an open creation that was done", func(s *story) { s.create.open, s.create.reply = true, reply{} }, ""},
		{"an open deletion that was done", func(s *story) { s.remove.open, s.remove.reply = true, reply{} }, ""},
		{"an open deletion that was not done", func(s *story) {
			s.remove.open, s.remove.reply, s.heard = true, reply{}, s.heard[:3]
		}, ""},
		{"a look at once with the write that it misses", func(s *story) {
			s.second.ret = s.get.ret
			s.get.reply.user.Name, s.get.reply.user.Picture = "1", "1"
		}, ""},

		{"a look that misses a write", func(s *story) {
			s.get.reply.user.Name, s.get.reply.user.Picture = "1", "1"
		}, history},
		{"a look at half a write", func(s *story) { s.get.reply.user.Picture = "1" }, history},
		{"a look at a token that nobody wrote", func(s *story) { s.get.reply.user.token = "u" }, history},
		{"a look that finds nobody", func(s *story) { s.get.reply = reply{code: "not_found"} }, history},
		{"a refusal of what was done", func(s *story) { s.first.reply.code = "patch_failed" }, history},
		{"a refusal of what was done, told", func(s *story) { s.first.reply.code = "patch_failed" }, "is told of an operation that comes to"},
		{"a write that was lost", func(s *story) {
			lost := &Operation{kind: "patch", person: 1, id: 7, mark: "3", ops: list{op("replace", "/name", "3")}}
			lost.call, lost.ret = s.second.ret+1, s.get.call-1
			s.operations = append(s.operations, lost)
		}, history},
		{"a second user of the person", func(s *story) {
			second := *s.create
			second.reply.id, second.call, second.ret = 8, s.second.call, s.second.ret
			s.operations = append(s.operations, &second)
		}, history},
		{"a write that was done though it was to be refused", func(s *story) { s.second.ops[0] = op("test", "/name", "0") }, history},

		{"a write of which nobody is told", func(s *story) { s.heard = slices.Delete(s.heard, 1, 2) }, "nobody was told of this"},
		{"a last write of which nobody is told", func(s *story) { s.heard = s.heard[:3] }, "nobody was told of this"},
		{"a write of which one is told twice", func(s *story) { s.tell(harness.PatchKey, s.heard[1].Value.(dict)) }, "told twice"},
		{"a deletion of which one is told twice", func(s *story) { s.tell(harness.DeleteKey, s.heard[3].Value.(dict)) }, "told twice"},
		{"two notifications out of order", func(s *story) { s.heard[1], s.heard[2] = s.heard[2], s.heard[1] }, "does not follow"},
		{"a deletion that is told too soon", func(s *story) { s.heard[2], s.heard[3] = s.heard[3], s.heard[2] }, "does not follow"},
		{"two writes told in an order that they were not made in", func(s *story) {
			s.second.ops = s.second.ops[1:2]
			s.heard[2].Value = dict{"user_id": int64(7), "ops": list{op("replace", "/name", "2")}}
			s.heard[1], s.heard[2] = s.heard[2], s.heard[1]
		}, "told too late"},
		{"a notification of another change than was made", func(s *story) {
			s.heard[1].Value.(dict)["ops"].(list)[1] = op("add", "/picture_url", "2")
		}, "leads to"},
		{"a notification of what nobody asked for", func(s *story) {
			s.tell(harness.CreateKey, View{ID: 9, Name: "9", Email: "9", Github: 9}.tree())
		}, "nobody asked for"},
		{"two notifications under one message id", func(s *story) { s.heard[2].MessageID = s.heard[1].MessageID }, "have the message id"},
		{"a notification that is repeated with another sequence", func(s *story) {
			again := s.heard[1]
			again.Sequence++
			s.heard = append(s.heard, again)
		}, "have the message id"},
		{"a gap between the changes of a user", func(s *story) { s.heard[3].Sequence++ }, "is change 5 of the user, want 4"},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newStory()
			c.change(s)
			_, _, problems := CheckNotifications(s.heard, s.operations)
			problems = append(problems, CheckHistories(s.operations)...)
			switch {
			case c.want == "" && len(problems) > 0:
				t.Errorf("found problems: %q", problems)
			case !strings.Contains(strings.Join(problems, "\n"), c.want):
				t.Errorf("not found: %s; but %q", c.want, problems)
			}
		})
	}
}
