package store

import (
	"fmt"
	"strings"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/archive"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/schema"
)

// A ImportResult is what became of a user who was to be imported.
type ImportResult struct {
	Kind   ImportOutcome
	Reason string // for people, without a value of what is stored or was read; "" where there is nothing to say
}

type ImportOutcome int

const (
	Imported     ImportOutcome = iota // or would be, in a dry run
	AlreadyThere                      // the same user, with the same content
	Conflicting                       // with another user, with what this one is now, or with who is to come
	Unreadable                        // no key opens a token, or there is none
)

// decide says what becomes of a user, and plans it.
func (b *importing) decide(u *archive.User, plan *plan) (ImportResult, error) {
	next, reason, err := b.seal(u)
	if err != nil {
		return ImportResult{}, err
	}
	if reason != "" {
		return ImportResult{Unreadable, reason}, nil
	}
	if have := b.stored[u.ID]; have != nil {
		if differ := b.differences(have, next, u); len(differ) > 0 {
			return ImportResult{Conflicting, "there is a user with this id, who differs in " + strings.Join(differ, ", ")}, nil
		}
		return ImportResult{AlreadyThere, ""}, nil
	}
	if u.ID > b.highest {
		return ImportResult{Conflicting, fmt.Sprintf("with this id, less than %d would be left for new users", leastIDs)}, nil
	}
	if owner := b.owners.emails[u.Email]; owner != 0 {
		return ImportResult{Conflicting, fmt.Sprintf("user %d has this email", owner)}, nil
	}
	for _, service := range services {
		if a := *accountOf(&next.user, service); a != nil {
			if owner := b.owners.services[serviceID{service, a.ID}]; owner != 0 {
				return ImportResult{Conflicting, fmt.Sprintf("user %d has this %s account", owner, schema.ServiceNames[service])}, nil
			}
		}
	}
	b.stored[u.ID] = next
	b.owners.add(&next.user)
	plan.insertedUsers.add(&next.user)
	for i, service := range services {
		if a := *accountOf(&next.user, service); a != nil {
			plan.services.users = append(plan.services.users, u.ID)
			plan.services.names = append(plan.services.names, service)
			plan.services.ids = append(plan.services.ids, a.ID)
			plan.services.tokens = append(plan.services.tokens, next.tokens[i])
		}
	}
	return ImportResult{}, nil
}

// seal makes the rows of a user, with tokens that the first key opens, or says why
// it cannot be done.
func (b *importing) seal(u *archive.User) (_ *storedUser, reason string, err error) {
	s := &storedUser{user: actor.User{ID: u.ID, Name: u.Name, Email: u.Email, PictureURL: u.PictureURL}}
	for i, service := range services {
		a := archivedAccount(u, service)
		if a == nil {
			continue
		}
		*accountOf(&s.user, service) = &actor.Account{ID: a.ID}
		switch {
		case a.Token != "":
			if s.tokens[i], err = b.keyring.Reseal([]byte(a.Token)); err == keyring.ErrNoKey {
				return nil, "no key opens the access token of its " + schema.ServiceNames[service] + " account", nil
			}
		case b.options.EmptyTokens:
			s.tokens[i], err = b.keyring.Seal(nil)
		case b.stored[u.ID] == nil:
			return nil, "its " + schema.ServiceNames[service] + " account has no access token", nil
		}
		if err != nil {
			return nil, "", fmt.Errorf("sealing an access token: %w", err)
		}
	}
	return s, "", nil
}

// differences names what of a stored user is not as it is to be. A token that was
// left out does not differ.
func (b *importing) differences(have, next *storedUser, u *archive.User) (fields []string) {
	if have.user.Name != next.user.Name {
		fields = append(fields, "name")
	}
	if have.user.Email != next.user.Email {
		fields = append(fields, "email")
	}
	if !equal(have.user.PictureURL, next.user.PictureURL) {
		fields = append(fields, "picture_url")
	}
	for i, service := range services {
		old, a := *accountOf(&have.user, service), *accountOf(&next.user, service)
		switch {
		case old == nil && a == nil:
		case old == nil || a == nil || old.ID != a.ID:
			fields = append(fields, schema.ServiceNames[service])
		case archivedAccount(u, service).Token != "" && !b.keyring.SameContent(have.tokens[i], next.tokens[i]):
			fields = append(fields, schema.ServiceNames[service]+".access_token")
		}
	}
	return fields
}
