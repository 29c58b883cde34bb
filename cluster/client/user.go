package client

import (
	"context"
	"iter"
	"slices"
)

// A User is a user of GlotPod, with a GitHub or a Facebook account or both.
type User struct {
	ID         int64    `json:"id"` // given by the service
	Name       string   `json:"name"`
	Email      string   `json:"email"`       // compared byte by byte; at most 2,600 bytes
	PictureURL string   `json:"picture_url"` // "": none
	GitHub     *Account `json:"github"`      // nil: none
	Facebook   *Account `json:"facebook"`    // nil: none
}

// An Account is a user's account with another service.
type Account struct {
	ID int64 `json:"id"` // of the user, given by the other service

	// AccessToken is "" in pages and changes, and in replies to a login that may not see tokens.
	AccessToken string `json:"access_token"`
}

// A Query says which user to get. The user must match all fields that are not zero. At least
// one must be set.
type Query struct {
	UserID     int64
	Email      string
	GitHubID   int64
	FacebookID int64
}

// Get returns the user that matches a query. If there is none, the error is [ErrNotFound].
// For other errors see [Client.Do]. The user shows all changes that were replied to before
// the request.
func (c *Client) Get(ctx context.Context, q Query) (*User, error) {
	var u User
	if err := c.call(ctx, "get", encodeQuery(q), u.decode); err != nil {
		return nil, err
	}
	return &u, nil
}

// maxIDs is how many users the service looks up in one request.
const maxIDs = 1000

// GetMany returns the users with these ids, without access tokens, by ascending id. Ids
// without a user are left out. There may be any number of ids; each 1,000 take a request of
// their own.
func (c *Client) GetMany(ctx context.Context, ids []int64) ([]User, error) {
	ids = sortedSet(ids)
	var all []User
	for len(ids) > 0 {
		var p UserPage
		if err := c.call(ctx, "get_many", encodeIDs(ids[:min(len(ids), maxIDs)]), p.decode); err != nil {
			return nil, err
		}
		all = append(all, p.Users...)
		if p.NextAfterID < ids[0] {
			ids = ids[min(len(ids), maxIDs):]
		} else { // the page is limited in bytes
			next, _ := slices.BinarySearch(ids, p.NextAfterID+1)
			ids = ids[next:]
		}
	}
	return all, nil
}

// Create creates a user and returns its id. The ID of u is ignored. The error is
// [ErrConflict] if another user has the email or an account, and [ErrBadRequest] if u is no
// valid user. For other errors see [Client.Do].
func (c *Client) Create(ctx context.Context, u *User) (id int64, err error) {
	if u == nil {
		return 0, badRequest("there is no user to create")
	}
	return c.callForID(ctx, "create", encodeUser(u))
}

// Patch applies a JSON Patch to a user in the form that get returns. All operations are
// applied, or none.
//
// The error is [ErrPatchFailed] if an operation cannot be applied, [ErrInvalidPatchResult] if
// the result is no valid user, [ErrConflict] if another user has the new email or account,
// [ErrNotFound] or [ErrBadRequest]. For other errors see [Client.Do].
func (c *Client) Patch(ctx context.Context, userID int64, ops ...Op) error {
	args, err := encodePatch(userID, ops)
	if err != nil {
		return err
	}
	return c.call(ctx, "patch", args, func(*decoder) {})
}

// Delete deletes a user for good. The error is [ErrNotFound] if there is no such user. For
// other errors see [Client.Do].
func (c *Client) Delete(ctx context.Context, userID int64) error {
	_, err := c.callForID(ctx, "delete", encodeQuery(Query{UserID: userID}))
	return err
}

// A UserPage is a page of users, by ascending id and without access tokens.
type UserPage struct {
	Users       []User
	NextAfterID int64  // the AfterID of the next page; 0: this is the last one
	After       string // in the page without AfterID: a position for [Client.Changes] and [Client.Watch]
}

// ListOptions say which users to list.
type ListOptions struct {
	// Name filters by words. Each must be the beginning of a word of the user's name. Case and
	// the form of letters in Unicode do not matter.
	Name string

	AfterID  int64 // the page begins after this user
	PageSize int   // 1 to 1000; 0: 100. A page may have fewer users, since its bytes are limited too.
}

// List returns a page of users. For errors see [Client.Do].
func (c *Client) List(ctx context.Context, o ListOptions) (*UserPage, error) {
	var p UserPage
	if err := c.call(ctx, "list", encodeList(o), p.decode); err != nil {
		return nil, err
	}
	return &p, nil
}

// ListPages returns the pages of all users from that of o on. The iteration ends after the last
// page or the first error.
func (c *Client) ListPages(ctx context.Context, o ListOptions) iter.Seq2[*UserPage, error] {
	return func(yield func(*UserPage, error) bool) {
		for {
			page, err := c.List(ctx, o)
			if !yield(page, err) || err != nil || page.NextAfterID == 0 {
				return
			}
			o.AfterID = page.NextAfterID
		}
	}
}

// call sends a request and decodes its result.
func (c *Client) call(ctx context.Context, operation string, args []byte, decode func(*decoder)) error {
	result, err := c.Do(ctx, Request{Operation: operation, Args: args})
	if err != nil {
		return err
	}
	d := decoder{b: result}
	decode(&d)
	return d.err
}

// callForID is call for a result that is the id of a user.
func (c *Client) callForID(ctx context.Context, operation string, args []byte) (id int64, err error) {
	err = c.call(ctx, operation, args, func(d *decoder) {
		d.members(func(key []byte) {
			if string(key) == "user_id" {
				id = d.integer()
			} else {
				d.skip()
			}
		})
		if id == 0 {
			d.fail()
		}
	})
	return id, err
}
