package actor

import (
	"errors"
	"math"

	"github.com/tinylib/msgp/msgp"
)

// A User is one user as callers see it.
type User struct {
	ID         int64 // 1 to MaxUserID
	Name       string
	Email      string
	PictureURL *string // nil where there is none
	GitHub     *Account
	Facebook   *Account

	Version Version // of what is stored, where the user comes from there
}

// A Version tells what is stored of a user from what was and will be. What it
// consists of is the store's affair. Zero stands for no version.
type Version [3]uint32

// An Account is a user's account with another service.
type Account struct {
	ID          int64 // what the service calls the user by
	AccessToken string
}

const (
	// MaxUserID is the greatest id that the users table can hold.
	MaxUserID = math.MaxInt32

	// MaxEmailBytes is the longest email that the unique index over emails
	// can hold whatever its text: a B-tree entry ends at 2,704 bytes.
	MaxEmailBytes = 2600
)

// ParseUser reads a user from a decoded tree. An id, which has to be an
// integer, is ignored. The error, a *Refusal with the code BadRequest, names
// the first field that is wrong, and never its value.
func ParseUser(tree any) (User, error) {
	u, err := parseUser(tree)
	if err == nil {
		err = u.checkEmail()
	}
	if err != nil {
		return User{}, err
	}
	return u, nil
}

// checkEmail says whether every database can hold the user's email. One that it
// holds already may be longer, where it was written by others.
func (u *User) checkEmail() error {
	if len(u.Email) > MaxEmailBytes {
		return refuse(BadRequest, "email is longer than %d bytes", MaxEmailBytes)
	}
	return nil
}

// parseUser is ParseUser, but that it takes emails of any length.
func parseUser(tree any) (User, error) {
	fields, ok := tree.(map[string]any)
	if !ok {
		return User{}, refuse(BadRequest, "a user is a map")
	}
	var u User
	var hasName, hasEmail bool
	for key, v := range fields {
		var err error
		switch key {
		case "id":
			if !isInteger(v) {
				err = wrongType("id", "an integer")
			}
		case "name":
			hasName = true
			u.Name, err = stringField("name", v)
		case "email":
			hasEmail = true
			u.Email, err = stringField("email", v)
		case "picture_url":
			var url string
			url, err = stringField("picture_url", v)
			u.PictureURL = &url
		case "github":
			u.GitHub, err = parseAccount("github", v)
		case "facebook":
			u.Facebook, err = parseAccount("facebook", v)
		default:
			err = refuse(BadRequest, "a user has no field but id, name, email, picture_url, github and facebook")
		}
		if err != nil {
			return User{}, err
		}
	}
	switch {
	case !hasName:
		return User{}, missing("name")
	case !hasEmail:
		return User{}, missing("email")
	case u.GitHub == nil && u.Facebook == nil:
		return User{}, refuse(BadRequest, "a user has github or facebook or both")
	}
	return u, nil
}

func parseAccount(service string, v any) (*Account, error) {
	fields, ok := v.(map[string]any)
	if !ok {
		return nil, wrongType(service, "a map")
	}
	if len(fields) != 2 {
		return nil, refuse(BadRequest, "%s has id and access_token, and nothing else", service)
	}
	id, ok := fields["id"].(int64)
	if !ok {
		return nil, wrongType(service+".id", "a 64-bit integer")
	}
	token, err := stringField(service+".access_token", fields["access_token"])
	if err != nil {
		return nil, err
	}
	return &Account{ID: id, AccessToken: token}, nil
}

func stringField(field string, v any) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", wrongType(field, "a string")
	}
	return s, nil
}

func isInteger(v any) bool {
	switch v.(type) {
	case int64, uint64:
		return true
	}
	return false
}

// tree shows the user as get does, to a JSON Patch or, without access tokens,
// to those who must not see them. The caller owns the tree.
func (u *User) tree(tokens bool) map[string]any {
	t := map[string]any{"id": u.ID, "name": u.Name, "email": u.Email}
	if u.PictureURL != nil {
		t["picture_url"] = *u.PictureURL
	}
	if u.GitHub != nil {
		t["github"] = u.GitHub.tree(tokens)
	}
	if u.Facebook != nil {
		t["facebook"] = u.Facebook.tree(tokens)
	}
	return t
}

func (a *Account) tree(tokens bool) map[string]any {
	t := map[string]any{"id": a.ID}
	if tokens {
		t["access_token"] = a.AccessToken
	}
	return t
}

// Size returns how many bytes of text the user has.
func (u *User) Size() int {
	n := len(u.Name) + len(u.Email)
	if u.PictureURL != nil {
		n += len(*u.PictureURL)
	}
	for _, a := range []*Account{u.GitHub, u.Facebook} {
		if a != nil {
			n += len(a.AccessToken)
		}
	}
	return n
}

// appendUser appends u in msgpack.
func appendUser(b []byte, u *User, tokens bool) []byte {
	n := uint32(3)
	for _, there := range []bool{u.PictureURL != nil, u.GitHub != nil, u.Facebook != nil} {
		if there {
			n++
		}
	}
	b = msgp.AppendMapHeader(b, n)
	b = msgp.AppendInt64(msgp.AppendString(b, "id"), u.ID)
	b = msgp.AppendString(msgp.AppendString(b, "name"), u.Name)
	b = msgp.AppendString(msgp.AppendString(b, "email"), u.Email)
	if u.PictureURL != nil {
		b = msgp.AppendString(msgp.AppendString(b, "picture_url"), *u.PictureURL)
	}
	b = appendAccount(b, "github", u.GitHub, tokens)
	return appendAccount(b, "facebook", u.Facebook, tokens)
}

func appendAccount(b []byte, service string, a *Account, tokens bool) []byte {
	if a == nil {
		return b
	}
	b = msgp.AppendString(b, service)
	if !tokens {
		return msgp.AppendInt64(msgp.AppendString(msgp.AppendMapHeader(b, 1), "id"), a.ID)
	}
	b = msgp.AppendInt64(msgp.AppendString(msgp.AppendMapHeader(b, 2), "id"), a.ID)
	return msgp.AppendString(msgp.AppendString(b, "access_token"), a.AccessToken)
}

// readUser reads what appendUser has appended with access tokens.
func readUser(b []byte) (*User, error) {
	u := new(User)
	err := readMap(&b, func(field string) (err error) {
		switch field {
		case "id":
			u.ID, b, err = msgp.ReadInt64Bytes(b)
		case "name":
			u.Name, b, err = msgp.ReadStringBytes(b)
		case "email":
			u.Email, b, err = msgp.ReadStringBytes(b)
		case "picture_url":
			u.PictureURL = new(string)
			*u.PictureURL, b, err = msgp.ReadStringBytes(b)
		case "github":
			u.GitHub, err = readAccount(&b)
		case "facebook":
			u.Facebook, err = readAccount(&b)
		default:
			err = errNotAUser
		}
		return err
	})
	return u, err
}

func readAccount(b *[]byte) (*Account, error) {
	a := new(Account)
	err := readMap(b, func(field string) (err error) {
		switch field {
		case "id":
			a.ID, *b, err = msgp.ReadInt64Bytes(*b)
		case "access_token":
			a.AccessToken, *b, err = msgp.ReadStringBytes(*b)
		default:
			err = errNotAUser
		}
		return err
	})
	return a, err
}

var errNotAUser = errors.New("actor: not a user")

// readMap reads a map, whose values value reads.
func readMap(b *[]byte, value func(key string) error) error {
	n, rest, err := msgp.ReadMapHeaderBytes(*b)
	*b = rest
	for ; n > 0 && err == nil; n-- {
		var key []byte
		if key, *b, err = msgp.ReadStringZC(*b); err == nil {
			err = value(string(key))
		}
	}
	return err
}
