package actor

// An operation is one operation of a JSON Patch (RFC 6902), as encoded in JSON.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitzero"`
}

const (
	// tokenPath ends the path of the operation that says that an access token was replaced.
	// Such an operation has no value, and only the log has it.
	tokenPath = "/access_token"
)

// tokenMember is in the JSON of each such operation.
var tokenMember = []byte(tokenPath + `"`)

// appendTokensReplaced adds the operations for the access tokens that were replaced.
func appendTokensReplaced(ops []operation, before, after *User) []operation {
	ops = appendTokenReplaced(ops, "/github", before.GitHub, after.GitHub)
	return appendTokenReplaced(ops, "/facebook", before.Facebook, after.Facebook)
}

func appendTokenReplaced(ops []operation, path string, before, after *Account) []operation {
	if before != nil && after != nil && before.AccessToken != after.AccessToken {
		ops = append(ops[:len(ops):len(ops)], operation{Op: "replace", Path: path + tokenPath})
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
		ops = append(ops, operation{"replace", path + tokenPath, after.AccessToken})
	}
	return ops
}
