package actor

import (
	"errors"
	"maps"
	"math"

	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/actor/jsonpatch"
)

// A User is a user as callers see it.
type User struct {
	ID         int64 // 1 to MaxUserID
	Name       string
	Email      string
	PictureURL *string // nil if there is none
	GitHub     *Account
	Facebook   *Account

	Version Version // of the stored user; zero if this one was not read from the store
}

// A Version identifies one stored state of a user. The store defines its content. Zero
// means that there is no version.
type Version struct {
	Rows     [3]uint32
	Sequence int64 // the number of changes that requests have made
}

// An Account is a user's account with another service.
type Account struct {
	ID          int64 // the user's id at that service
	AccessToken string
}

const (
	// MaxUserID is the largest id that the users table can hold.
	MaxUserID = math.MaxInt64

	// MaxEmailBytes is the maximum length of an email that the unique index on emails
	// can hold: a B-tree entry is limited to 2,704 bytes.
	MaxEmailBytes = 2600
)

// ParseUser parses a user from a decoded msgpack or JSON value. An id must be an integer
// and is ignored. The error is a *Refusal with the code BadRequest. It names a wrong
// field, and never contains a value.
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

// checkEmail returns an error if the email is longer than the database can hold. An email
// that is stored already may be longer, if another program wrote it.
func (u *User) checkEmail() error {
	if len(u.Email) > MaxEmailBytes {
		return refuse(BadRequest, "email is longer than %d bytes", MaxEmailBytes)
	}
	return nil
}

// parseUser is ParseUser for emails of any length.
func parseUser(tree any) (User, error) {
	fields, ok := tree.(map[string]any)
	if !ok {
		return User{}, refuse(BadRequest, "a user must be a map")
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
			err = refuse(BadRequest, "unknown field: a user has only id, name, email, picture_url, github and facebook")
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
		return User{}, refuse(BadRequest, "a user must have github or facebook or both")
	}
	return u, nil
}

func parseAccount(service string, v any) (*Account, error) {
	fields, ok := v.(map[string]any)
	if !ok {
		return nil, wrongType(service, "a map")
	}
	if len(fields) != 2 {
		return nil, refuse(BadRequest, "%s must have id and access_token, and no other fields", service)
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

// tree returns the user as a decoded value, as a get shows it: what a JSON Patch is
// applied to. Without tokens, access tokens are left out. The caller owns the tree.
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

// hideTokens hides the access tokens of a user's tree from a JSON Patch.
func hideTokens(user map[string]any) {
	for _, service := range services {
		if account, ok := user[service].(map[string]any); ok {
			account["access_token"] = jsonpatch.Hidden{Value: account["access_token"].(string)}
		}
	}
}

// showTokens returns a tree with the access tokens that are hidden where a user has them. It
// changes nothing that the tree may share with others.
func showTokens(tree any) any {
	fields, ok := tree.(map[string]any)
	if !ok {
		return tree
	}
	fields = maps.Clone(fields)
	for _, service := range services {
		account, _ := fields[service].(map[string]any)
		if hidden, ok := account["access_token"].(jsonpatch.Hidden); ok {
			account = maps.Clone(account)
			account["access_token"] = hidden.Value
			fields[service] = account
		}
	}
	return fields
}

// services are the fields of a user that have an account.
var services = [...]string{"github", "facebook"}

// tokensSize returns the total length of the access tokens in bytes.
func (u *User) tokensSize() (n int) {
	for _, a := range []*Account{u.GitHub, u.Facebook} {
		if a != nil {
			n += len(a.AccessToken)
		}
	}
	return n
}

// Size returns the total length of the user's strings in bytes.
func (u *User) Size() int {
	n := len(u.Name) + len(u.Email)
	if u.PictureURL != nil {
		n += len(*u.PictureURL)
	}
	return n + u.tokensSize()
}

// appendUser appends u, encoded in msgpack.
func appendUser(b []byte, u *User, tokens bool) []byte {
	n := uint32(3)
	for _, present := range []bool{u.PictureURL != nil, u.GitHub != nil, u.Facebook != nil} {
		if present {
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

// readUser decodes a user that appendUser has encoded with access tokens.
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

// readMap decodes a map from *b. value decodes the value of each key.
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
