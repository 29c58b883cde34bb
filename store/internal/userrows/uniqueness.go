package userrows

import (
	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
)

// Emails and service ids are the unique keys of users: at most one user has each. The
// constraints of the tables guarantee that. It is checked before a commit too, so that a
// conflict refuses one write and does not fail all writes of its transaction.

// A serviceID is the id of an account at a service.
type serviceID struct {
	service string
	id      int64
}

// KeyOwners says which user has a key. The zero value has no keys.
type KeyOwners struct {
	emails   map[string]int64
	services map[serviceID]int64
}

func (o *KeyOwners) addEmail(email string, user int64) {
	if o.emails == nil {
		o.emails = make(map[string]int64)
	}
	o.emails[email] = user
}

func (o *KeyOwners) addService(s serviceID, user int64) {
	if o.services == nil {
		o.services = make(map[serviceID]int64)
	}
	o.services[s] = user
}

// Add makes u the owner of its keys.
func (o *KeyOwners) Add(u *actor.User) {
	o.addEmail(u.Email, u.ID)
	for _, service := range Services {
		if account := *AccountOf(u, service); account != nil {
			o.addService(serviceID{service, account.ID}, u.ID)
		}
	}
}

// EmailOwner returns the id of the user that has an email, or 0.
func (o *KeyOwners) EmailOwner(email string) int64 { return o.emails[email] }

// ServiceIDOwner returns the id of the user that has a service id, or 0.
func (o *KeyOwners) ServiceIDOwner(service string, id int64) int64 {
	return o.services[serviceID{service, id}]
}

// The refusals of writes that want a key that another user has.
var (
	EmailTaken   = &actor.Refusal{Code: actor.Conflict, Message: "another user has this email"}
	AccountTaken = &actor.Refusal{Code: actor.Conflict, Message: "another user has this account"}
)

// Conflict returns the refusal for the first key of u that another user has. It returns nil
// if there is none.
func (o *KeyOwners) Conflict(u *actor.User) *actor.Refusal {
	if owner, ok := o.emails[u.Email]; ok && owner != u.ID {
		return EmailTaken
	}
	for _, service := range Services {
		if account := *AccountOf(u, service); account != nil {
			if owner, ok := o.services[serviceID{service, account.ID}]; ok && owner != u.ID {
				return AccountTaken
			}
		}
	}
	return nil
}

// WantedKeys are keys that writes want to give to users.
type WantedKeys struct {
	Emails     []string
	Services   []string // the service of each of ServiceIDs
	ServiceIDs []int64
}

// Add adds the keys that a user has after a write (next) and did not have before it. The
// user before is nil if the write creates the user. It reports whether there are any.
func (w *WantedKeys) Add(before, next *actor.User) bool {
	found := false
	if before == nil || before.Email != next.Email {
		w.Emails = append(w.Emails, next.Email)
		found = true
	}
	for _, service := range Services {
		account := *AccountOf(next, service)
		if account == nil {
			continue
		}
		if before != nil {
			if had := *AccountOf(before, service); had != nil && had.ID == account.ID {
				continue
			}
		}
		w.Services = append(w.Services, service)
		w.ServiceIDs = append(w.ServiceIDs, account.ID)
		found = true
	}
	return found
}

// Queue queries the owners of the wanted keys and adds them to owners.
func (w *WantedKeys) Queue(batch *pgx.Batch, owners *KeyOwners) {
	if len(w.Emails) > 0 {
		batch.Queue("SELECT id, email_address FROM users WHERE email_address = ANY($1::text[])", w.Emails).
			Query(func(rows pgx.Rows) error {
				for rows.Next() {
					var user int64
					var email string
					if err := rows.Scan(&user, &email); err != nil {
						return err
					}
					owners.addEmail(email, user)
				}
				return rows.Err()
			})
	}
	if len(w.ServiceIDs) > 0 {
		batch.Queue(`SELECT s.user_id, w.sv_name, w.sv_id
			FROM unnest($1::text[], $2::bigint[]) AS w (sv_name, sv_id),
				LATERAL (SELECT user_id FROM services WHERE sv_id = w.sv_id AND services.sv_name::text = w.sv_name OFFSET 0) AS s`,
			w.Services, w.ServiceIDs).
			Query(func(rows pgx.Rows) error {
				for rows.Next() {
					var user int64
					var s serviceID
					if err := rows.Scan(&user, &s.service, &s.id); err != nil {
						return err
					}
					owners.addService(s, user)
				}
				return rows.Err()
			})
	}
}
