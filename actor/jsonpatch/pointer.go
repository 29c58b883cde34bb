package jsonpatch

import (
	"math"
	"strconv"
	"strings"
)

// A pointer is a well-formed JSON Pointer. Equal locations have equal pointers, because
// there is only one way to escape a token (RFC 6901).
type pointer string

const root pointer = ""

// parsePointer checks that v is a JSON Pointer.
func parsePointer(v any) (pointer, bool) {
	text, ok := v.(string)
	if !ok || text != "" && text[0] != '/' {
		return "", false
	}
	for rest := text; ; {
		tilde := strings.IndexByte(rest, '~')
		if tilde < 0 {
			return pointer(text), true
		}
		rest = rest[tilde+1:]
		if rest == "" || rest[0] != '0' && rest[0] != '1' {
			return "", false
		}
	}
}

// next returns the first token and the rest. It must not be called on the root.
func (p pointer) next() (token string, rest pointer) {
	text := string(p[1:])
	if end := strings.IndexByte(text, '/'); end >= 0 {
		return unescape(text[:end]), pointer(text[end:])
	}
	return unescape(text), root
}

// parent returns the location's parent and the last token. It must not be called on the
// root.
func (p pointer) parent() (parent pointer, token string) {
	slash := strings.LastIndexByte(string(p), '/')
	return p[:slash], unescape(string(p[slash+1:]))
}

// depth returns the number of containers around the location.
func (p pointer) depth() int {
	return strings.Count(string(p), "/")
}

// within reports whether p is a location below other.
func (p pointer) within(other pointer) bool {
	return len(p) > len(other) && p[:len(other)] == other && p[len(other)] == '/'
}

var escapes = strings.NewReplacer("~1", "/", "~0", "~")

func unescape(token string) string {
	if strings.IndexByte(token, '~') < 0 {
		return token
	}
	return escapes.Replace(token)
}

// parseIndex parses an array index: decimal digits without leading zeros. If the index is
// too large for an int, it returns math.MaxInt, which is beyond the end of any array.
func parseIndex(token string) (int, bool) {
	if token == "" || token[0] == '0' && len(token) > 1 {
		return 0, false
	}
	for i := range len(token) {
		if token[i] < '0' || token[i] > '9' {
			return 0, false
		}
	}
	index, err := strconv.Atoi(token)
	if err != nil {
		return math.MaxInt, true
	}
	return index, true
}
