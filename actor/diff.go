package actor

// An operation is one operation of a JSON Patch (RFC 6902), as encoded in JSON.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitzero"`
}

// Changes returns the JSON Patch from one state of a user to the next, for the audit
// log. A nil user does not exist. The patch contains no access token: the operation that
// replaces a token has no value. If nothing changed, Changes returns nil.
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
		ops = appendTokenReplaced(ops, "/github", before.GitHub, after.GitHub)
		ops = appendTokenReplaced(ops, "/facebook", before.Facebook, after.Facebook)
	}
	if len(ops) == 0 {
		return nil
	}
	return encodeJSON(ops)
}

func appendTokenReplaced(ops []operation, path string, before, after *Account) []operation {
	if before != nil && after != nil && before.AccessToken != after.AccessToken {
		ops = append(ops, operation{Op: "replace", Path: path + "/access_token"})
	}
	return ops
}

// diff returns the JSON Patch from before to after. Without tokens, it is the patch
// between the two users as they look without their access tokens.
func diff(before, after *User, tokens bool) []operation {
	ops := []operation{}
	if before.Name != after.Name {
		ops = append(ops, operation{"replace", "/name", after.Name})
	}
	if before.Email != after.Email {
		ops = append(ops, operation{"replace", "/email", after.Email})
	}
	switch b, a := before.PictureURL, after.PictureURL; {
	case b == nil && a != nil:
		ops = append(ops, operation{"add", "/picture_url", *a})
	case b != nil && a == nil:
		ops = append(ops, operation{Op: "remove", Path: "/picture_url"})
	case b != nil && *b != *a:
		ops = append(ops, operation{"replace", "/picture_url", *a})
	}
	ops = diffAccount(ops, "/github", before.GitHub, after.GitHub, tokens)
	return diffAccount(ops, "/facebook", before.Facebook, after.Facebook, tokens)
}

func diffAccount(ops []operation, path string, before, after *Account, tokens bool) []operation {
	switch {
	case before == nil && after == nil:
		return ops
	case before == nil:
		return append(ops, operation{"add", path, after.tree(tokens)})
	case after == nil:
		return append(ops, operation{Op: "remove", Path: path})
	}
	if before.ID != after.ID {
		ops = append(ops, operation{"replace", path + "/id", after.ID})
	}
	if tokens && before.AccessToken != after.AccessToken {
		ops = append(ops, operation{"replace", path + "/access_token", after.AccessToken})
	}
	return ops
}
