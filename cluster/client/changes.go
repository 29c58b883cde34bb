package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/tinylib/msgp/msgp"
)

// PositionGone is the code of the [ReplyError] for a position since which the log does not have
// all changes. Then list all users, and go on from the after of the first page of list.
const PositionGone = "position_gone"

// A ReplyError is an error reply.
type ReplyError struct {
	Code      string
	Message   string // for people
	Retryable bool   // the same request may succeed later
}

func (e *ReplyError) Error() string { return e.Code + ": " + e.Message }

// A ChangePage is a page of changes of users. It may have fewer changes than were asked for,
// because it is also limited in bytes.
type ChangePage struct {
	Changes []Change
	After   string // the position after the page
	More    bool   // there may be later changes; the page may be empty then
}

// A Change is a change of a user.
type Change struct {
	UserID    int64
	Sequence  int64  // the number of the change among those of the user, from 1 on
	Operation string // create, patch or delete
	Time      time.Time
	User      map[string]any // of a create, without access tokens
	Ops       []any          // of a patch: a JSON Patch from the earlier to the later state of the user
}

// Changes returns the first changes after a position, at most pageSize (1 to 1000) of them. The
// changes of each user are in order. A position is the After of an earlier page, or the after of
// the first page of list. With "", Changes begins with the oldest changes that are kept.
//
// If the service replies with an error, the error is a *[ReplyError], for example with the code
// [PositionGone].
func (c *Client) Changes(ctx context.Context, after string, pageSize int) (*ChangePage, error) {
	args := map[string]any{"page_size": pageSize}
	if after != "" {
		args["after"] = after
	}
	body, err := msgp.AppendMapStrIntf(nil, args)
	if err != nil {
		return nil, err
	}
	reply, err := c.Call(ctx, "changes", "", body)
	if err != nil {
		return nil, err
	}
	return readChangePage(reply)
}

// ChangePages returns the pages of all changes after a position. The iteration ends after the
// last page or the first error. The caller stores the After of a page once it has processed the
// changes of the page. A later call with that position misses no change.
func (c *Client) ChangePages(ctx context.Context, after string, pageSize int) iter.Seq2[*ChangePage, error] {
	return func(yield func(*ChangePage, error) bool) {
		for {
			page, err := c.Changes(ctx, after, pageSize)
			if !yield(page, err) || err != nil || !page.More {
				return
			}
			after = page.After
		}
	}
}

var errUnexpectedReply = errors.New("the reply is not one to a request for changes")

func readChangePage(reply []byte) (*ChangePage, error) {
	decoded, _, err := msgp.ReadMapStrIntfBytes(reply, nil)
	if err != nil {
		return nil, fmt.Errorf("decoding the reply: %w", err)
	}
	if code, ok := decoded["error"].(string); ok {
		e := &ReplyError{Code: code}
		e.Message, _ = decoded["message"].(string)
		e.Retryable, _ = decoded["retryable"].(bool)
		return nil, e
	}
	result, _ := decoded["result"].(map[string]any)
	changes, isList := result["changes"].([]any)
	page := new(ChangePage)
	var hasAfter, hasMore bool
	page.After, hasAfter = result["after"].(string)
	page.More, hasMore = result["more"].(bool)
	if !isList || !hasAfter || !hasMore {
		return nil, errUnexpectedReply
	}
	for _, v := range changes {
		change, err := readChange(v)
		if err != nil {
			return nil, err
		}
		page.Changes = append(page.Changes, change)
	}
	return page, nil
}

func readChange(v any) (c Change, err error) {
	m, _ := v.(map[string]any)
	var hasUser, hasSequence, hasOperation bool
	c.UserID, hasUser = m["user_id"].(int64)
	c.Sequence, hasSequence = m["sequence"].(int64)
	c.Operation, hasOperation = m["operation"].(string)
	if !hasUser || !hasSequence || !hasOperation {
		return c, errUnexpectedReply
	}
	text, _ := m["time"].(string)
	if c.Time, err = time.Parse(time.RFC3339Nano, text); err != nil {
		return c, fmt.Errorf("%w: %w", errUnexpectedReply, err)
	}
	c.User, _ = m["user"].(map[string]any)
	c.Ops, _ = m["ops"].([]any)
	return c, nil
}
