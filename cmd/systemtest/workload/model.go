package workload

import (
	"fmt"
	"hash/maphash"
	"reflect"
	"time"
)

// The load creates and deletes users again and again, and each create gives another user
// id. So the histories are about persons. A person is identified by the id of its GitHub
// account, which never changes. It is one user at a time, or none. The model says which
// histories of a person are allowed.

// A View is a user as get shows it. The zero view means that there is no user.
type View struct {
	ID            int64
	Name          string // the mark of the last write
	Email         string
	Picture       string // "" for none
	Github        int64
	token         string // "" where it is not shown
	Facebook      int64  // 0 for none
	facebookToken string
}

// tree returns the user as it is in a body.
func (v View) tree() dict {
	t := dict{"name": v.Name, "email": v.Email, "github": serviceOf(v.Github, v.token)}
	if v.ID != 0 {
		t["id"] = v.ID
	}
	if v.Picture != "" {
		t["picture_url"] = v.Picture
	}
	if v.Facebook != 0 {
		t["facebook"] = serviceOf(v.Facebook, v.facebookToken)
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
func viewOf(tree any) (View, error) {
	t, _ := tree.(dict)
	var v View
	v.ID, _ = t["id"].(int64)
	v.Name, _ = t["name"].(string)
	v.Email, _ = t["email"].(string)
	v.Picture, _ = t["picture_url"].(string)
	github, _ := t["github"].(dict)
	v.Github, _ = github["id"].(int64)
	v.token, _ = github["access_token"].(string)
	facebook, _ := t["facebook"].(dict)
	v.Facebook, _ = facebook["id"].(int64)
	v.facebookToken, _ = facebook["access_token"].(string)
	if v.ID == 0 || !reflect.DeepEqual(v.tree(), tree) {
		return View{}, fmt.Errorf("this is no user: %v", tree)
	}
	return v, nil
}

// shown is the user as list and notifications show it.
func (v View) shown() View {
	v.token, v.facebookToken = "", ""
	return v
}

// patched returns the user after the operations of a JSON Patch, and the code of
// the refusal, if it is refused. Of the operations it knows those that occur
// here; any other is its own refusal.
func (v View) patched(ops list) (View, string) {
	before := v
	for _, o := range ops {
		o := o.(dict)
		text, _ := o["value"].(string)
		number, _ := o["value"].(int64)
		switch what := fmt.Sprint(o["op"], " ", o["path"]); what {
		case "test /name":
			if v.Name != text {
				return before, "patch_failed"
			}
		case "replace /name":
			v.Name = text
		case "replace /email":
			v.Email = text
		case "add /picture_url", "replace /picture_url":
			v.Picture = text
		case "remove /picture_url":
			if v.Picture == "" {
				return before, "patch_failed"
			}
			v.Picture = ""
		case "replace /github/access_token":
			v.token = text
		case "add /facebook":
			account := o["value"].(dict)
			v.Facebook = account["id"].(int64)
			v.facebookToken, _ = account["access_token"].(string)
		case "replace /facebook/id":
			v.Facebook = number
		case "remove /facebook":
			if v.Facebook == 0 {
				return before, "patch_failed"
			}
			v.Facebook, v.facebookToken = 0, ""
		default:
			return before, what
		}
	}
	return v, ""
}

// rock is a person that is a user from before the first fault on and never changes.
// Another person that asks for the rock's email gets a conflict.
const (
	rock      = 0
	rockEmail = "rock@secret.example"
)

// An Operation is one request with all its tries and its reply.
type Operation struct {
	caller int
	person int
	kind   string // "create", "get", "get_many", "patch", "delete" or "list"

	id    int64  // of patch, delete and get_many, and of a get by it
	email string // of a get by it
	user  View   // of a create: without id
	ops   list   // of a patch
	mark  string // what the name is after a create or a patch; of each operation another one

	call, ret time.Duration // since the load began
	tries     int
	open      bool // there was no reply: the operation may have been carried out, or will be
	reply     reply
}

// A reply is the content of a reply. The zero reply is the one to a patch.
type reply struct {
	code string // of a refusal
	id   int64  // to create and delete
	user View   // to get, get_many and list; nobody where a list is empty
}

func (o *Operation) String() string {
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
func (o *Operation) writes() bool { return o.kind != "get" && o.kind != "get_many" && o.kind != "list" }

// does says what the operation makes of the person who is now, and what it has
// to reply. Which id a create draws is anybody's choice.
func (o *Operation) does(now View) (next View, want reply) {
	isThere := now.ID != 0 && (o.id == 0 || o.id == now.ID) && (o.email == "" || o.email == now.Email)
	switch o.kind {
	case "create":
		if now.ID != 0 || o.user.Email == rockEmail && o.person != rock {
			return now, reply{code: "conflict"}
		}
		next = o.user
		next.ID = o.reply.id
		return next, reply{id: next.ID}
	case "list":
		return now, reply{user: now.shown()}
	}
	if !isThere {
		if o.kind == "get_many" {
			return now, reply{}
		}
		return now, reply{code: "not_found"}
	}
	switch o.kind {
	case "get":
		return now, reply{user: now}
	case "get_many":
		return now, reply{user: now.shown()}
	case "delete":
		return View{}, reply{id: o.id}
	}
	next, code := now.patched(o.ops)
	if code == "" && next.Email == rockEmail && o.person != rock {
		code = "conflict"
	}
	if code != "" {
		return now, reply{code: code}
	}
	return next, reply{}
}

// step is the model's: it says whether the operation can have been carried out
// on the person who is now.
func (o *Operation) step(now View) (bool, View) {
	next, want := o.does(now)
	return o.open || o.reply == want, next
}

var viewSeed = maphash.MakeSeed()

func (v View) hash() uint64 { return maphash.Comparable(viewSeed, v) }
