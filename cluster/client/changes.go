package client

import (
	"context"
	"iter"
	"time"
)

// A Change is a change of a user.
type Change struct {
	UserID    int64
	Sequence  int64     // the number of the change among those of the user, from 1 on
	Operation string    // create, patch or delete
	Time      time.Time // when the transaction of the change began, by the clock of the database
	User      *User     // of a create: the new user
	Ops       []Op      // of a patch: the difference between the earlier and the later state, for [User.Apply]
}

// A ChangePage is a page of changes. It may have fewer changes than were asked for, because it
// is also limited in bytes.
type ChangePage struct {
	Changes []Change
	After   string // the position after the page
	More    bool   // there may be later changes; the page may be empty then
}

// Changes returns the first changes after a position, at most pageSize of them (1 to 1000; 0:
// 100), without access tokens. The changes of each user are in order. A position is the After of an
// earlier page, or of the first page of List. With "", Changes begins with the oldest changes
// that are kept.
//
// The error is [ErrPositionGone] if the log does not have all changes since the position, and
// [ErrBadRequest] if it is no position of the service: it is damaged. In both cases list all
// users, and go on from the After of the first page. For other errors see [Client.Do].
func (c *Client) Changes(ctx context.Context, after string, pageSize int) (*ChangePage, error) {
	m := newMap()
	m.textIfSet("after", after)
	m.integerIfSet("page_size", int64(pageSize))
	var p ChangePage
	if err := c.call(ctx, "changes", m.b, p.decode); err != nil {
		return nil, err
	}
	return &p, nil
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

func (p *ChangePage) decode(d *decoder) {
	p.More = true
	hasMore := false
	d.members(func(key []byte) {
		switch string(key) {
		case "changes":
			d.elements(func() {
				var c Change
				c.decode(d)
				p.Changes = append(p.Changes, c)
			})
		case "after":
			p.After = d.text()
		case "more":
			p.More, hasMore = d.boolean(), true
		default:
			d.skip()
		}
	})
	if p.After == "" || !hasMore {
		d.fail() // the pages would not end
	}
}

func (c *Change) decode(d *decoder) {
	d.members(func(key []byte) {
		switch string(key) {
		case "user_id":
			c.UserID = d.integer()
		case "sequence":
			c.Sequence = d.integer()
		case "operation":
			c.Operation = d.text()
		case "time":
			at, err := time.Parse(time.RFC3339Nano, d.text())
			if err != nil {
				d.failWith(err)
			}
			c.Time = at
		case "user":
			c.User = new(User)
			c.User.decode(d)
		case "ops":
			c.Ops = decodeOps(d)
		default:
			d.skip()
		}
	})
	if !c.isWhole() {
		d.fail()
	}
}

// isWhole reports whether the change has what its operation needs.
func (c *Change) isWhole() bool {
	if c.UserID <= 0 || c.Sequence <= 0 || c.Time.IsZero() {
		return false
	}
	switch c.Operation {
	case "create":
		return c.User != nil
	case "patch":
		return c.Ops != nil
	default:
		return c.Operation == "delete"
	}
}
