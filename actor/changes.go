package actor

import "encoding/json"

// Changes says what has become of a user, nil for nobody, as a JSON Patch from the
// user before to the user after. It holds no access token: where one was replaced,
// that operation has no value. It is nil where the two are the same.
func Changes(before, after *User) []byte {
	var ops []operation
	switch {
	case before == nil && after == nil:
	case before == nil:
		ops = []operation{{"add", "", after.tree(false)}}
	case after == nil:
		ops = []operation{{Op: "remove", Path: ""}}
	default:
		ops = diff(before, after, false)
		ops = tokenReplaced(ops, "/github", before.GitHub, after.GitHub)
		ops = tokenReplaced(ops, "/facebook", before.Facebook, after.Facebook)
	}
	if len(ops) == 0 {
		return nil
	}
	b, err := json.Marshal(ops)
	if err != nil {
		panic(err) // strings, integers, maps and lists of these always marshal
	}
	return b
}

func tokenReplaced(ops []operation, path string, before, after *Account) []operation {
	if before != nil && after != nil && before.AccessToken != after.AccessToken {
		ops = append(ops, operation{Op: "replace", Path: path + "/access_token"})
	}
	return ops
}
