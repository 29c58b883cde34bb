package store

import (
	"slices"

	"github.com/glotpod/ident/actor"
)

// services are the names of the services in the database.
var services = [...]string{"gh", "fb"}

// accountOf returns the field for the account of u at a service.
func accountOf(u *actor.User, service string) **actor.Account {
	if service == "gh" {
		return &u.GitHub
	}
	return &u.Facebook
}

// A storedUser is the rows of a user. The xmin values of the rows are the user's version:
// first that of the row in users, then those of the rows in services, in the order of
// services. A storedUser is not changed after it was read.
type storedUser struct {
	user   actor.User            // without access tokens
	tokens [len(services)][]byte // sealed
}

// rows returns how many rows the user has: none if u is nil.
func (u *storedUser) rows() int {
	if u == nil {
		return 0
	}
	n := 1
	for _, service := range services {
		if *accountOf(&u.user, service) != nil {
			n++
		}
	}
	return n
}

func (u *storedUser) setAccount(service string, id int64, token []byte, version uint32) {
	*accountOf(&u.user, service) = &actor.Account{ID: id}
	i := slices.Index(services[:], service)
	u.tokens[i], u.user.Version[1+i] = token, version
}
