package archive

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/glotpod/ident/actor"
)

// A lineUser is a User of which anything may be missing.
type lineUser struct {
	ID         *int64       `json:"id"`
	Name       *string      `json:"name"`
	Email      *string      `json:"email"`
	PictureURL *string      `json:"picture_url"`
	GitHub     *lineAccount `json:"github"`
	Facebook   *lineAccount `json:"facebook"`
}

type lineAccount struct {
	ID    *int64  `json:"id"`
	Token *string `json:"access_token"`
}

// parseUser reads a line, or says why it is no user.
func parseUser(text []byte, tokens Tokens, longest int) (u *User, reason string) {
	var line lineUser
	if reason := decode(text, &line); reason != "" {
		return nil, reason
	}
	if line.ID == nil || *line.ID < 1 || *line.ID > actor.MaxUserID {
		return nil, "id is not an integer from 1 to 2147483647"
	}
	if _, err := actor.ParseUser(line.tree()); err != nil {
		return nil, err.(*actor.Refusal).Message
	}
	for _, s := range []struct {
		field string
		text  *string
	}{{"name", line.Name}, {"email", line.Email}, {"picture_url", line.PictureURL}} {
		switch {
		case s.text == nil:
		case len(*s.text) > longest:
			return nil, fmt.Sprintf("%s is longer than %d bytes", s.field, longest)
		case strings.Contains(*s.text, "\x00"):
			return nil, "a string contains NUL"
		}
	}
	u = &User{ID: *line.ID, Name: *line.Name, Email: *line.Email, PictureURL: line.PictureURL}
	if u.GitHub, reason = line.GitHub.account("github", tokens, longest); reason != "" {
		return nil, reason
	}
	if u.Facebook, reason = line.Facebook.account("facebook", tokens, longest); reason != "" {
		return nil, reason
	}
	return u, ""
}

// tree is the user as the service's rules take it. Sealed or left out, a token
// is a string.
func (l *lineUser) tree() map[string]any {
	tree := make(map[string]any)
	if l.Name != nil {
		tree["name"] = *l.Name
	}
	if l.Email != nil {
		tree["email"] = *l.Email
	}
	if l.PictureURL != nil {
		tree["picture_url"] = *l.PictureURL
	}
	for service, a := range map[string]*lineAccount{"github": l.GitHub, "facebook": l.Facebook} {
		if a == nil {
			continue
		}
		account := map[string]any{"id": nil, "access_token": ""}
		if a.ID != nil {
			account["id"] = *a.ID
		}
		tree[service] = account
	}
	return tree
}

func (a *lineAccount) account(service string, tokens Tokens, longest int) (*Account, string) {
	switch {
	case a == nil:
		return nil, ""
	case tokens == Omit && a.Token != nil:
		return nil, service + " has an access_token, though the first line says that there are none"
	case tokens == Omit:
		return &Account{ID: *a.ID}, ""
	case a.Token == nil || *a.Token == "":
		return nil, service + " has no access_token"
	case len(*a.Token) > sealedLength(longest):
		return nil, fmt.Sprintf("the access_token of %s is longer than %d bytes", service, longest)
	}
	return &Account{ID: *a.ID, Token: *a.Token}, ""
}

// sealedLength is how long so many bytes are as a Fernet token: padded to whole
// blocks of 16, with 57 bytes around, in base64.
func sealedLength(plain int) int { return base64.URLEncoding.EncodedLen((plain/16+1)*16 + 57) }

func parseHeader(text []byte) (h Header, ok bool) {
	ok = decode(text, &h) == ""
	return h, ok
}

// parseEnd reads a last line. A line that is none may be a user.
func parseEnd(text []byte) (e End, ok bool) {
	if !bytes.HasPrefix(text, []byte(`{"end"`)) {
		return End{}, false
	}
	ok = decode(text, &e) == "" && e.End
	return e, ok
}

// decode reads a line into one of the structures above, or says why not, without
// quoting the line.
func decode(text []byte, into any) (reason string) {
	decoder := jsontext.NewDecoder(bytes.NewReader(text))
	err := json.UnmarshalDecode(decoder, into, strict)
	var wrong *json.SemanticError
	switch {
	case err == nil && decoder.InputOffset() < int64(len(text)):
		return "something follows the JSON value"
	case err == nil && text[0] == '{':
		return ""
	case errors.Is(err, json.ErrUnknownName), errors.Is(err, jsontext.ErrDuplicateName):
		return "a user has no field but id, name, email, picture_url, github and facebook, and an account none but id and access_token, each once"
	case errors.As(err, &wrong) && wrong.JSONPointer != "":
		return strings.ReplaceAll(string(wrong.JSONPointer[1:]), "/", ".") + " is of the wrong type"
	case err == nil || wrong != nil:
		return "not a JSON object"
	case jsontext.Value(text).IsValid(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true)):
		return "not UTF-8, or half of a surrogate pair"
	}
	return "not JSON, or cut off"
}

// strict takes names in their own case alone. Nor does this package, unlike
// encoding/json, take a name twice, or half of a surrogate pair for U+FFFD.
var strict = json.JoinOptions(json.RejectUnknownMembers(true), json.WithUnmarshalers(json.UnmarshalFromFunc(flat)))

var errNotFlat = errors.New("an object or a list where neither can be")

// flat refuses what is no number or text unread where one should be: to find names
// that are there twice, the decoder takes many times the memory of what it reads.
func flat(decoder *jsontext.Decoder, into any) error {
	switch reflect.TypeOf(into).Elem().Kind() {
	case reflect.Struct, reflect.Pointer:
		return json.SkipFunc
	}
	if next := decoder.PeekKind(); next == '{' || next == '[' {
		return errNotFlat
	}
	return json.SkipFunc
}
