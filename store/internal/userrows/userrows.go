// Package userrows has the rows of users in the tables users and services, as look-ups,
// writes and imports read and write them.
package userrows

import (
	"slices"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/internal/keyring"
)

// Services are the names of the services in the database.
var Services = [...]string{"gh", "fb"}

// AccountOf returns the field for the account of u at a service.
func AccountOf(u *actor.User, service string) **actor.Account {
	if service == "gh" {
		return &u.GitHub
	}
	return &u.Facebook
}

// A Stored is the rows of a user. The xmin values of the rows are the user's version:
// first that of the row in users, then those of the rows in services, in the order of
// Services. A Stored is not changed after it was read.
type Stored struct {
	User   actor.User            // without access tokens
	Tokens [len(Services)][]byte // encrypted
}

// Count returns how many rows the user has: none if u is nil.
func (u *Stored) Count() int {
	if u == nil {
		return 0
	}
	n := 1
	for _, service := range Services {
		if *AccountOf(&u.User, service) != nil {
			n++
		}
	}
	return n
}

// SetAccount adds a row of services.
func (u *Stored) SetAccount(service string, id int64, token []byte, version uint32) {
	*AccountOf(&u.User, service) = &actor.Account{ID: id}
	i := slices.Index(Services[:], service)
	u.Tokens[i], u.User.Version.Rows[1+i] = token, version
}

// Unseal decrypts the access tokens and returns the user with them.
func (u *Stored) Unseal(keys *keyring.Keyring) (*actor.User, error) {
	user := u.User
	for i, service := range Services {
		account := AccountOf(&user, service)
		if *account == nil {
			continue
		}
		token, err := keys.Open(u.Tokens[i])
		if err != nil {
			return nil, err
		}
		*account = &actor.Account{ID: (*account).ID, AccessToken: string(token)}
	}
	return &user, nil
}

// Equal reports whether a and b point to equal values, or are both nil.
func Equal[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
