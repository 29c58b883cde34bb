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

// maxSequence leaves numbers for more changes than a user can have.
const maxSequence = 1 << 53

// A lineUser is a User that may lack any field.
type lineUser struct {
	ID         *int64       `json:"id"`
	Name       *string      `json:"name"`
	Email      *string      `json:"email"`
	PictureURL *string      `json:"picture_url"`
	GitHub     *lineAccount `json:"github"`
	Facebook   *lineAccount `json:"facebook"`
	Sequence   *int64       `json:"sequence"`
}

type lineAccount struct {
	ID    *int64  `json:"id"`
	Token *string `json:"access_token"`
}

// parseUser parses a line. If the line is not a user, it returns the reason.
func parseUser(text []byte, tokens Tokens, maxField int) (u *User, reason string) {
	var line lineUser
	if reason := decode(text, &line); reason != "" {
		return nil, reason
	}
	if line.ID == nil || *line.ID < 1 {
		return nil, "id is not an integer from 1 to 9223372036854775807"
	}
	if line.Sequence != nil && (*line.Sequence < 0 || *line.Sequence > maxSequence) {
		return nil, fmt.Sprintf("sequence is not an integer from 0 to %d", int64(maxSequence))
	}
	if _, err := actor.ParseUser(line.tree()); err != nil {
		refusal, _ := errors.AsType[*actor.Refusal](err)
		return nil, refusal.Message
	}
	for _, s := range []struct {
		field string
		text  *string
	}{{"name", line.Name}, {"email", line.Email}, {"picture_url", line.PictureURL}} {
		switch {
		case s.text == nil:
		case len(*s.text) > maxField:
			return nil, fmt.Sprintf("%s is longer than %d bytes", s.field, maxField)
		case strings.Contains(*s.text, "\x00"):
			return nil, "a string contains NUL"
		}
	}
	u = &User{ID: *line.ID, Name: *line.Name, Email: *line.Email, PictureURL: line.PictureURL}
	if line.Sequence != nil {
		u.Sequence = *line.Sequence
	}
	if u.GitHub, reason = line.GitHub.account("github", tokens, maxField); reason != "" {
		return nil, reason
	}
	if u.Facebook, reason = line.Facebook.account("facebook", tokens, maxField); reason != "" {
		return nil, reason
	}
	return u, ""
}

// tree returns the user as actor.ParseUser takes it. A token counts as a string, whether
// encrypted or omitted.
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

func (a *lineAccount) account(service string, tokens Tokens, maxField int) (*Account, string) {
	switch {
	case a == nil:
		return nil, ""
	case tokens == Omit && a.Token != nil:
		return nil, service + " has an access_token, though the first line says that there are none"
	case tokens == Omit:
		return &Account{ID: *a.ID}, ""
	case a.Token == nil || *a.Token == "":
		return nil, service + " has no access_token"
	case len(*a.Token) > sealedLength(maxField):
		return nil, fmt.Sprintf("the access_token of %s is longer than %d bytes", service, maxField)
	}
	return &Account{ID: *a.ID, Token: *a.Token}, ""
}

// sealedLength returns the length of a Fernet token of so many bytes: padded to whole
// blocks of 16 bytes, with 57 bytes around, in base64.
func sealedLength(plain int) int { return base64.URLEncoding.EncodedLen((plain/16+1)*16 + 57) }

func parseHeader(text []byte) (h Header, ok bool) {
	ok = decode(text, &h) == ""
	return h, ok
}

// parseEnd parses a last line. If the line is not one, it may be a user.
func parseEnd(text []byte) (e End, ok bool) {
	if !bytes.HasPrefix(text, []byte(`{"end"`)) {
		return End{}, false
	}
	ok = decode(text, &e) == "" && e.End
	return e, ok
}

// decode decodes a line into one of the structures above. If that fails, it returns the
// reason without quoting the line.
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
		return "a user has no field but id, name, email, picture_url, github, facebook and sequence, and an account none but id and access_token, each once"
	case errors.As(err, &wrong) && wrong.JSONPointer != "":
		return strings.ReplaceAll(string(wrong.JSONPointer[1:]), "/", ".") + " is of the wrong type"
	case err == nil || wrong != nil:
		return "not a JSON object"
	case jsontext.Value(text).IsValid(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true)):
		return "not UTF-8, or half of a surrogate pair"
	}
	return "not JSON, or cut off"
}

// strict requires the exact case of names. Unlike encoding/json, this JSON package also
// refuses a name that appears twice, and half of a surrogate pair.
var strict = json.JoinOptions(json.RejectUnknownMembers(true), json.WithUnmarshalers(json.UnmarshalFromFunc(refuseNested)))

var errNested = errors.New("unexpected object or list")

// refuseNested refuses an object or a list in place of a number or a text without reading it. To
// find names that appear twice, the decoder would need many times the memory of its input.
func refuseNested(decoder *jsontext.Decoder, into any) error {
	switch reflect.TypeOf(into).Elem().Kind() {
	case reflect.Struct, reflect.Pointer:
		return errors.ErrUnsupported
	}
	if next := decoder.PeekKind(); next == '{' || next == '[' {
		return errNested
	}
	return errors.ErrUnsupported
}
