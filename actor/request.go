package actor

import (
	"errors"
	"slices"
	"strings"

	"github.com/glotpod/ident/actor/jsonpatch"
	"github.com/glotpod/ident/actor/msgpack"
)

// A Request is a parsed request. Exactly one of its fields is set.
type Request struct {
	Get     *Lookup
	List    *Page
	Changes *ChangesPage
	Write   *Write
}

// A Lookup describes the user to get. The user must match all fields that are set.
type Lookup struct {
	UserID     *int64
	Email      *string
	GitHubID   *int64
	FacebookID *int64
	NoMatch    bool // no user can match: an argument has the wrong type or is out of range
}

// ByIDAlone returns the id to look up, if no other field is set.
func (l *Lookup) ByIDAlone() (id int64, ok bool) {
	if l.UserID == nil || l.Email != nil || l.GitHubID != nil || l.FacebookID != nil || l.NoMatch {
		return 0, false
	}
	return *l.UserID, true
}

// A Page describes which users to list.
type Page struct {
	AfterID int64
	Size    int     // 1 to MaxPageSize
	IDs     []int64 // if not nil, only users with these ids are listed; ascending, each once, at most MaxPageSize
	Name    string  // words; each must be the prefix of a word in the user's name; "" matches all users
	First   bool    // no AfterID was given
}

// A ChangesPage describes which changes to read.
type ChangesPage struct {
	After string // a position that the store has returned; "" means before all changes that are kept
	Size  int    // 1 to MaxPageSize
}

const (
	defaultPageSize = 100
	MaxPageSize     = 1000
)

// parsers has each operation, with the function that parses its arguments: read for
// operations that read, write for operations that write.
var parsers = map[string]struct {
	read  func(args map[string]any) (Request, *Refusal)
	write func(w *Write, args map[string]any, raw map[string][]byte) *Refusal
}{
	"get":      {read: parseGet},
	"get_many": {read: parseGetMany},
	"list":     {read: parseList},
	"changes":  {read: parseChanges},
	"create":   {write: parseCreate},
	"patch":    {write: parsePatch},
	"delete":   {write: parseDelete},
}

// IsOperation reports whether there is an operation of this name.
func IsOperation(name string) bool {
	_, ok := parsers[name]
	return ok
}

// Parse parses the body of a request for an operation ("get", "create", …). A malformed
// read, or an unknown operation, gives a refusal. A malformed create, patch or
// delete gives a [Write] that is refused, because its refusal has to be recorded
// under its request id. Only writes use the request id.
func Parse(operation string, body []byte, id RequestID, limits msgpack.Limits) (Request, *Refusal) {
	parser, ok := parsers[operation]
	if !ok {
		return Request{}, refuse(OperationNotFound, "no such operation")
	}
	msg, err := msgpack.Decode(body, limits)
	var refusal *Refusal
	args, isMap := msg.Tree.(map[string]any)
	switch {
	case err != nil:
		refusal = refuse(DecodeError, "%s", err)
	case !isMap:
		refusal = refuse(BadRequest, "the body is not a map")
	case msg.NUL:
		refusal = refuse(BadRequest, "a string contains NUL")
	}

	if parser.read != nil {
		if refusal != nil {
			return Request{}, refusal
		}
		return parser.read(args)
	}
	w := &Write{Operation: operation, RequestID: id, Size: len(body)}
	if err != nil {
		w.Digest = msgpack.DigestRaw(operation, body)
	} else {
		w.Digest = msgpack.Digest(operation, msg.Tree)
	}
	if refusal == nil {
		refusal = parser.write(w, args, msg.Raw)
	}
	w.refusal = refusal
	return Request{Write: w}, nil
}

func parseGet(args map[string]any) (Request, *Refusal) {
	var l Lookup
	given := false
	for key, v := range args {
		switch key {
		case "user_id", "email", "github_id", "facebook_id":
		default:
			return Request{}, refuse(BadRequest, "unknown argument: get accepts only user_id, email, github_id and facebook_id")
		}
		if v == nil {
			continue
		}
		given = true
		if key == "email" {
			email, ok := v.(string)
			l.Email, l.NoMatch = &email, l.NoMatch || !ok
			continue
		}
		id, ok := v.(int64)
		l.NoMatch = l.NoMatch || !ok
		switch key {
		case "user_id":
			l.UserID, l.NoMatch = &id, l.NoMatch || !isUserID(id)
		case "github_id":
			l.GitHubID = &id
		case "facebook_id":
			l.FacebookID = &id
		}
	}
	if !given {
		return Request{}, refuse(BadRequest, "get needs at least one argument that is not nil")
	}
	return Request{Get: &l}, nil
}

func isUserID(id int64) bool { return id >= 1 }

func parseGetMany(args map[string]any) (Request, *Refusal) {
	for key := range args {
		if key != "user_ids" {
			return Request{}, refuse(BadRequest, "unknown argument: get_many accepts only user_ids")
		}
	}
	given, ok := args["user_ids"].([]any)
	switch {
	case args["user_ids"] == nil:
		return Request{}, missing("user_ids")
	case !ok:
		return Request{}, wrongType("user_ids", "a list")
	case len(given) > MaxPageSize:
		return Request{}, refuse(BadRequest, "user_ids has more than %d ids", MaxPageSize)
	}
	ids := make([]int64, 0, len(given))
	for _, v := range given {
		switch id := v.(type) {
		case int64:
			if isUserID(id) {
				ids = append(ids, id)
			}
		case uint64: // out of range
		default:
			return Request{}, wrongType("an element of user_ids", "an integer")
		}
	}
	slices.Sort(ids)
	return Request{List: &Page{Size: MaxPageSize, IDs: slices.Compact(ids)}}, nil
}

func parseList(args map[string]any) (Request, *Refusal) {
	page := Page{Size: defaultPageSize, First: true}
	for key, v := range args {
		switch key {
		case "after_id", "page_size", "name":
		default:
			return Request{}, refuse(BadRequest, "unknown argument: list accepts only after_id, page_size and name")
		}
		if v == nil {
			continue
		}
		switch key {
		case "after_id":
			page.First = false
			switch id := v.(type) {
			case int64:
				page.AfterID = max(id, 0)
			case uint64:
				page.AfterID = MaxUserID
			default:
				return Request{}, wrongType("after_id", "an integer")
			}
		case "page_size":
			size, refusal := parsePageSize(v)
			if refusal != nil {
				return Request{}, refusal
			}
			page.Size = size
		case "name":
			name, ok := v.(string)
			if !ok {
				return Request{}, wrongType("name", "a string")
			}
			page.Name = name
		}
	}
	return Request{List: &page}, nil
}

func parsePageSize(v any) (int, *Refusal) {
	size, ok := v.(int64)
	if !ok || size < 1 || size > MaxPageSize {
		return 0, wrongType("page_size", "an integer from 1 to 1000")
	}
	return int(size), nil
}

func parseChanges(args map[string]any) (Request, *Refusal) {
	page := ChangesPage{Size: defaultPageSize}
	for key, v := range args {
		switch key {
		case "after", "page_size":
		default:
			return Request{}, refuse(BadRequest, "unknown argument: changes accepts only after and page_size")
		}
		if v == nil {
			continue
		}
		if key == "page_size" {
			size, refusal := parsePageSize(v)
			if refusal != nil {
				return Request{}, refusal
			}
			page.Size = size
			continue
		}
		after, ok := v.(string)
		if !ok {
			return Request{}, wrongType("after", "a string")
		}
		if after == "" {
			return Request{}, NoPosition
		}
		page.After = after
	}
	return Request{Changes: &page}, nil
}

func parseCreate(w *Write, args map[string]any, _ map[string][]byte) *Refusal {
	user, err := ParseUser(args)
	if err != nil {
		return asRefusal(err)
	}
	w.user = user
	return nil
}

func parsePatch(w *Write, args map[string]any, raw map[string][]byte) *Refusal {
	if refusal := parseUserID(w, args, "user_id", "ops"); refusal != nil {
		return refusal
	}
	ops, ok := args["ops"]
	if !ok {
		return missing("ops")
	}
	patch, err := jsonpatch.Parse(ops)
	if err != nil {
		return refuse(BadRequest, "%s", err)
	}
	w.patch, w.ops = patch, raw["ops"]
	return checkUserID(w)
}

func parseDelete(w *Write, args map[string]any, _ map[string][]byte) *Refusal {
	if refusal := parseUserID(w, args, "user_id"); refusal != nil {
		return refusal
	}
	return checkUserID(w)
}

// parseUserID parses the argument user_id, and refuses arguments that are not allowed.
// An id beyond the range of int64 becomes 0, which is out of range.
func parseUserID(w *Write, args map[string]any, allowed ...string) *Refusal {
	unknown := len(args)
	for _, key := range allowed {
		if _, ok := args[key]; ok {
			unknown--
		}
	}
	if unknown > 0 {
		return refuse(BadRequest, "unknown argument: %s accepts only %s", w.Operation, strings.Join(allowed, " and "))
	}
	switch id := args["user_id"].(type) {
	case nil:
		return missing("user_id")
	case int64:
		w.UserID = id
	case uint64:
	default:
		return wrongType("user_id", "an integer")
	}
	return nil
}

func checkUserID(w *Write) *Refusal {
	if !isUserID(w.UserID) {
		return NoSuchUser
	}
	return nil
}

func asRefusal(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	return InternalError("the request could not be carried out")
}
