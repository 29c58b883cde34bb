package harness

import (
	"fmt"
	"maps"
	"reflect"
	"sync/atomic"
	"testing"
)

var serial atomic.Int64

// NewUser returns a user that does not exist yet, with accounts of the given services.
func NewUser(services ...string) Dict {
	n := serial.Add(1)
	u := Dict{"name": fmt.Sprintf("s3cret Ada %d", n), "email": fmt.Sprintf("s3cret-user-%d@secret.example", n)}
	if len(services) == 0 {
		services = []string{"github"}
	}
	for _, service := range services {
		u[service] = NewAccount()
	}
	return u
}

func NewAccount() Dict {
	n := serial.Add(1)
	return Dict{"id": 1000 + n, "access_token": fmt.Sprintf("s3cret-token-%d", n)}
}

// Changed returns a copy of d with other values; nil removes a key.
func Changed(d, values Dict) Dict {
	d = maps.Clone(d)
	for key, v := range values {
		if d[key] = v; v == nil {
			delete(d, key)
		}
	}
	return d
}

// Create creates a user and returns it as get returns it.
func (c *Caller) Create(t *testing.T, u Dict) Dict {
	t.Helper()
	result, _ := c.Call(t, "create", u).Result(t).(Dict)
	id, ok := result["user_id"].(int64)
	if !ok || len(result) != 1 {
		t.Fatalf("create answered %v", result)
	}
	return Normalize(Changed(u, Dict{"id": id})).(Dict)
}

// Get returns a user as get returns it.
func (c *Caller) Get(t *testing.T, id any) Dict {
	t.Helper()
	return c.Call(t, "get", Dict{"user_id": id}).Result(t).(Dict)
}

func Op(name, path string, value ...any) Dict {
	o := Dict{"op": name, "path": path}
	if len(value) > 0 {
		o["value"] = value[0]
	}
	return o
}

func OpFrom(name, from, path string) Dict { return Dict{"op": name, "from": from, "path": path} }

func Patch(user Dict, ops ...any) Dict {
	if ops == nil {
		ops = List{}
	}
	return Dict{"user_id": user["id"], "ops": ops}
}

// AsListed returns a user as list returns it: without access tokens.
func AsListed(u Dict) any {
	u = Changed(u, nil)
	for _, service := range []string{"github", "facebook"} {
		if account, ok := u[service].(Dict); ok {
			u[service] = Dict{"id": account["id"]}
		}
	}
	return u
}

// NewUserLike returns a new user with the email of another user.
func NewUserLike(u Dict) Dict { return Changed(NewUser(), Dict{"email": u["email"]}) }

// List returns a page of list, without the position of the log. The test fails unless the first
// page has one and no other page does.
func (c *Caller) List(t *testing.T, args Dict) Dict {
	t.Helper()
	page := c.Call(t, "list", args).Result(t).(Dict)
	after, _ := page["after"].(string)
	if isFirst := args["after_id"] == nil; isFirst != (after != "") {
		t.Errorf("list %v gives the position %q", args, after)
	}
	delete(page, "after")
	return page
}

// CheckListed fails unless list gives one page with these users.
func (c *Caller) CheckListed(t *testing.T, args Dict, users List) {
	t.Helper()
	if page := c.List(t, args); !reflect.DeepEqual(page, Dict{"users": users}) {
		t.Errorf("list %v gives %v, want %v", args, page, users)
	}
}
