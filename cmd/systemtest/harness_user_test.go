package systemtest

import (
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
)

var serial atomic.Int64

// newUser returns a user who exists nowhere, with the given services.
func newUser(services ...string) dict {
	n := serial.Add(1)
	u := dict{"name": fmt.Sprintf("s3cret Ada %d", n), "email": fmt.Sprintf("s3cret-user-%d@secret.example", n)}
	if len(services) == 0 {
		services = []string{"github"}
	}
	for _, service := range services {
		u[service] = newAccount()
	}
	return u
}

func newAccount() dict {
	n := serial.Add(1)
	return dict{"id": 1000 + n, "access_token": fmt.Sprintf("s3cret-token-%d", n)}
}

// changed returns a copy of d with other values; nil takes one out.
func changed(d, values dict) dict {
	d = maps.Clone(d)
	for key, v := range values {
		if d[key] = v; v == nil {
			delete(d, key)
		}
	}
	return d
}

// create makes a user and returns it as get shows it.
func (c *caller) create(t *testing.T, u dict) dict {
	t.Helper()
	result, _ := c.call(t, "create", u).result(t).(dict)
	id, ok := result["user_id"].(int64)
	if !ok || len(result) != 1 {
		t.Fatalf("create answered %v", result)
	}
	return normal(changed(u, dict{"id": id})).(dict)
}

// get returns a user as get shows it.
func (c *caller) get(t *testing.T, id any) dict {
	t.Helper()
	return c.call(t, "get", dict{"user_id": id}).result(t).(dict)
}

func op(name, path string, value ...any) dict {
	o := dict{"op": name, "path": path}
	if len(value) > 0 {
		o["value"] = value[0]
	}
	return o
}

func opFrom(name, from, path string) dict { return dict{"op": name, "from": from, "path": path} }

func patchOf(user dict, ops ...any) dict {
	if ops == nil {
		ops = list{}
	}
	return dict{"user_id": user["id"], "ops": ops}
}

// shown is a user as list shows it.
func shown(u dict) any {
	u = changed(u, nil)
	for _, service := range []string{"github", "facebook"} {
		if account, ok := u[service].(dict); ok {
			u[service] = dict{"id": account["id"]}
		}
	}
	return u
}

// newUserOf returns a new user who wants another's email.
func newUserOf(u dict) dict { return changed(newUser(), dict{"email": u["email"]}) }
