package actor

import (
	"hash/maphash"
	"sync"
)

// lookupKeys are what a warm user is found by, beside the id.
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

// matches reports whether a user with these keys is the one whom l describes, by
// whatever it names but the id.
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

// An index says which warm user may have an email or an account. Whether the
// user has it, the user's entry says.
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

// add notes whose keys these are.
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

// remove takes back add, as far as nobody else has got the keys since.
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

// find returns who may be meant by a look-up that does not name the id, 0 if
// that is not known. One of what it names is enough.
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

// shrink gives back the memory of maps that are empty: they do not shrink by
// themselves.
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
