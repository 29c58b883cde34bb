package actor

import (
	"hash/maphash"
	"sync"
)

// lookupKeys are the keys by which a cached user can be found, except the id.
type lookupKeys struct {
	email    string     // "" for none
	accounts [2]account // with GitHub, and with Facebook
}

type account struct {
	id  int64
	has bool
}

func keysOf(u *User) lookupKeys {
	k := lookupKeys{email: u.Email}
	for i, a := range []*Account{u.GitHub, u.Facebook} {
		if a != nil {
			k.accounts[i] = account{a.ID, true}
		}
	}
	return k
}

// matches reports whether a user with these keys matches all fields of l except the id.
func (k *lookupKeys) matches(l *Lookup) bool {
	if l.Email != nil && *l.Email != k.email {
		return false
	}
	for i, id := range []*int64{l.GitHubID, l.FacebookID} {
		if id != nil && k.accounts[i] != (account{*id, true}) {
			return false
		}
	}
	return true
}

// An index finds the id of a cached user by email or account. The result may be out of
// date: the caller must compare with the keys in the user's entry.
type index struct {
	seed   maphash.Seed
	shards [maxShards]indexShard
}

type indexShard struct {
	mu       sync.Mutex // guards the following fields
	emails   map[string]int64
	accounts map[accountKey]int64
}

type accountKey struct {
	service int // as in keys.accounts
	id      int64
}

func newIndex() *index {
	x := &index{seed: maphash.MakeSeed()}
	for i := range x.shards {
		x.shards[i].clear()
	}
	return x
}

func (s *indexShard) clear() {
	s.emails, s.accounts = make(map[string]int64), make(map[accountKey]int64)
}

func (x *index) emailShard(email string) *indexShard {
	return &x.shards[maphash.String(x.seed, email)%maxShards]
}

func (x *index) accountShard(k accountKey) *indexShard {
	return &x.shards[maphash.Comparable(x.seed, k)%maxShards]
}

// add adds the keys of a user.
func (x *index) add(k *lookupKeys, userID int64) {
	if k.email != "" {
		s := x.emailShard(k.email)
		s.mu.Lock()
		s.emails[k.email] = userID
		s.mu.Unlock()
	}
	for service, a := range k.accounts {
		if a.has {
			key := accountKey{service, a.id}
			s := x.accountShard(key)
			s.mu.Lock()
			s.accounts[key] = userID
			s.mu.Unlock()
		}
	}
}

// remove removes the keys of a user, except those that another user has got since.
func (x *index) remove(k *lookupKeys, userID int64) {
	if k.email != "" {
		s := x.emailShard(k.email)
		s.mu.Lock()
		if s.emails[k.email] == userID {
			delete(s.emails, k.email)
		}
		s.mu.Unlock()
	}
	for service, a := range k.accounts {
		if a.has {
			key := accountKey{service, a.id}
			s := x.accountShard(key)
			s.mu.Lock()
			if s.accounts[key] == userID {
				delete(s.accounts, key)
			}
			s.mu.Unlock()
		}
	}
}

// find returns the id of a user that has the first key in l, 0 if no cached user has it.
func (x *index) find(l *Lookup) int64 {
	if l.Email != nil {
		s := x.emailShard(*l.Email)
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.emails[*l.Email]
	}
	for service, id := range []*int64{l.GitHubID, l.FacebookID} {
		if id != nil {
			key := accountKey{service, *id}
			s := x.accountShard(key)
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.accounts[key]
		}
	}
	return 0
}

// shrink replaces maps that are empty. A Go map does not shrink by itself.
func (x *index) shrink() {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		if len(s.emails) == 0 && len(s.accounts) == 0 {
			s.clear()
		}
		s.mu.Unlock()
	}
}
