package systemtest

import (
	"fmt"
	"hash/maphash"
	"reflect"
	"time"
)

// The chaos test knows the service by persons. A person has one account with
// GitHub for good, whose id tells the person, and so is one user at a time, or
// nobody: each create, after a delete, gives the person another user id. The
// model says what one person's history may look like, whoever owned the users
// meanwhile.

// A view is a user as get shows it. The zero view is nobody.
type view struct {
	id            int64
	name          string // the mark of the last write
	email         string
	picture       string // "" for none
	github        int64
	token         string // "" where it is not shown
	facebook      int64  // 0 for none
	facebookToken string
}

// tree returns the user as it is in a body.
func (v view) tree() dict {
	t := dict{"name": v.name, "email": v.email, "github": serviceOf(v.github, v.token)}
	if v.id != 0 {
		t["id"] = v.id
	}
	if v.picture != "" {
		t["picture_url"] = v.picture
	}
	if v.facebook != 0 {
		t["facebook"] = serviceOf(v.facebook, v.facebookToken)
	}
	return t
}

func serviceOf(id int64, token string) dict {
	if token == "" {
		return dict{"id": id}
	}
	return dict{"id": id, "access_token": token}
}

// viewOf reads a user from a body. It is an error if the user is no view.
func viewOf(tree any) (view, error) {
	t, _ := tree.(dict)
	var v view
	v.id, _ = t["id"].(int64)
	v.name, _ = t["name"].(string)
	v.email, _ = t["email"].(string)
	v.picture, _ = t["picture_url"].(string)
	github, _ := t["github"].(dict)
	v.github, _ = github["id"].(int64)
	v.token, _ = github["access_token"].(string)
	facebook, _ := t["facebook"].(dict)
	v.facebook, _ = facebook["id"].(int64)
	v.facebookToken, _ = facebook["access_token"].(string)
	if v.id == 0 || !reflect.DeepEqual(v.tree(), tree) {
		return view{}, fmt.Errorf("this is no user: %v", tree)
	}
	return v, nil
}

// shown is the user as list and notifications show it.
func (v view) shown() view {
	v.token, v.facebookToken = "", ""
	return v
}

// patched returns the user after the operations of a JSON Patch, and the code of
// the refusal, if it is refused. Of the operations it knows those that occur
// here; any other is its own refusal.
func (v view) patched(ops list) (view, string) {
	before := v
	for _, o := range ops {
		o := o.(dict)
		text, _ := o["value"].(string)
		number, _ := o["value"].(int64)
		switch what := fmt.Sprint(o["op"], " ", o["path"]); what {
		case "test /name":
			if v.name != text {
				return before, "patch_failed"
			}
		case "replace /name":
			v.name = text
		case "replace /email":
			v.email = text
		case "add /picture_url", "replace /picture_url":
			v.picture = text
		case "remove /picture_url":
			if v.picture == "" {
				return before, "patch_failed"
			}
			v.picture = ""
		case "replace /github/access_token":
			v.token = text
		case "add /facebook":
			account := o["value"].(dict)
			v.facebook = account["id"].(int64)
			v.facebookToken, _ = account["access_token"].(string)
		case "replace /facebook/id":
			v.facebook = number
		case "remove /facebook":
			if v.facebook == 0 {
				return before, "patch_failed"
			}
			v.facebook, v.facebookToken = 0, ""
		default:
			return before, what
		}
	}
	return v, ""
}

// rock is a person who is a user from before the first fault on, and never
// changes. Who wants the rock's email has a conflict.
const (
	rock      = 0
	rockEmail = "rock@secret.example"
)

// An operation is one request, with all tries of it, and what became of it.
type operation struct {
	caller int
	person int
	kind   string // "create", "get", "patch", "delete" or "list"

	id    int64  // of patch and delete, and of a get by it
	email string // of a get by it
	user  view   // of a create: without id
	ops   list   // of a patch
	mark  string // what the name is after a create or a patch; of each operation another one

	call, ret time.Duration // since the load began
	tries     int
	open      bool // it was never answered: it may have been carried out, or will be
	reply     reply
}

// A reply is what was answered. The zero reply is the one to a patch.
type reply struct {
	code string // of a refusal
	id   int64  // to create and delete
	user view   // to get and list; nobody where a list is empty
}

func (o *operation) String() string {
	what := o.kind
	switch {
	case o.kind == "create":
		what += fmt.Sprint(" ", o.user.tree())
	case o.kind == "patch":
		what += fmt.Sprint(" ", o.id, " ", o.ops)
	case o.kind == "get" && o.email != "":
		what += " " + o.email
	case o.id != 0:
		what += fmt.Sprint(" ", o.id)
	}
	end := fmt.Sprintf("%.3f", o.ret.Seconds())
	if o.open {
		end = "never"
	}
	return fmt.Sprintf("%.3f–%s, caller %d, %d tries: %s -> %+v", o.call.Seconds(), end, o.caller, o.tries, what, o.reply)
}

// writes says whether the operation may change anything.
func (o *operation) writes() bool { return o.kind != "get" && o.kind != "list" }

// does says what the operation makes of the person who is now, and what it has
// to reply. Which id a create draws is anybody's choice.
func (o *operation) does(now view) (next view, want reply) {
	isThere := now.id != 0 && (o.id == 0 || o.id == now.id) && (o.email == "" || o.email == now.email)
	switch o.kind {
	case "create":
		if now.id != 0 || o.user.email == rockEmail && o.person != rock {
			return now, reply{code: "conflict"}
		}
		next = o.user
		next.id = o.reply.id
		return next, reply{id: next.id}
	case "list":
		return now, reply{user: now.shown()}
	}
	if !isThere {
		return now, reply{code: "not_found"}
	}
	switch o.kind {
	case "get":
		return now, reply{user: now}
	case "delete":
		return view{}, reply{id: o.id}
	}
	next, code := now.patched(o.ops)
	if code == "" && next.email == rockEmail && o.person != rock {
		code = "conflict"
	}
	if code != "" {
		return now, reply{code: code}
	}
	return next, reply{}
}

// step is the model's: it says whether the operation can have been carried out
// on the person who is now.
func (o *operation) step(now view) (bool, view) {
	next, want := o.does(now)
	return o.open || o.reply == want, next
}

var viewSeed = maphash.MakeSeed()

func (v view) hash() uint64 { return maphash.Comparable(viewSeed, v) }
