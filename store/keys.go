package store

import (
	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
)

// A serviceID is an account's id with the service that it is of.
type serviceID struct {
	service string
	id      int64
}

// takenKeys say which user has an email or a service id.
type takenKeys struct {
	emails   map[string]int64
	services map[serviceID]int64
}

func (k *takenKeys) takeEmail(email string, user int64) {
	if k.emails == nil {
		k.emails = make(map[string]int64)
	}
	k.emails[email] = user
}

func (k *takenKeys) takeService(s serviceID, user int64) {
	if k.services == nil {
		k.services = make(map[serviceID]int64)
	}
	k.services[s] = user
}

// take notes what u has.
func (k *takenKeys) take(u *actor.User) {
	k.takeEmail(u.Email, u.ID)
	for _, service := range services {
		if account := *accountOf(u, service); account != nil {
			k.takeService(serviceID{service, account.ID}, u.ID)
		}
	}
}

// conflict says what of u another user has, "" if nothing.
func (k *takenKeys) conflict(u *actor.User) string {
	if owner, ok := k.emails[u.Email]; ok && owner != u.ID {
		return "another user has this email"
	}
	for _, service := range services {
		if account := *accountOf(u, service); account != nil {
			if owner, ok := k.services[serviceID{service, account.ID}]; ok && owner != u.ID {
				return "another user has this account"
			}
		}
	}
	return ""
}

// wanted are the emails and service ids that writes want to give to users.
type wanted struct {
	emails []string
	names  []string // of services, one for each of ids
	ids    []int64
}

// add notes what next has and before, nil for nobody, has not. It says whether
// there is anything.
func (w *wanted) add(before, next *actor.User) bool {
	found := false
	if before == nil || before.Email != next.Email {
		w.emails = append(w.emails, next.Email)
		found = true
	}
	for _, service := range services {
		account := *accountOf(next, service)
		if account == nil {
			continue
		}
		if before != nil {
			if had := *accountOf(before, service); had != nil && had.ID == account.ID {
				continue
			}
		}
		w.names = append(w.names, service)
		w.ids = append(w.ids, account.ID)
		found = true
	}
	return found
}

// queue asks who has what is wanted, and puts the answers into taken.
func (w *wanted) queue(batch *pgx.Batch, taken *takenKeys) {
	if len(w.emails) > 0 {
		batch.Queue("SELECT id, email_address FROM users WHERE email_address = ANY($1::text[])", w.emails).
			Query(func(rows pgx.Rows) error {
				for rows.Next() {
					var user int64
					var email string
					if err := rows.Scan(&user, &email); err != nil {
						return err
					}
					taken.takeEmail(email, user)
				}
				return rows.Err()
			})
	}
	if len(w.ids) > 0 {
		batch.Queue(`SELECT s.user_id, s.sv_name::text, s.sv_id
			FROM unnest($1::text[]::svc_type[], $2::bigint[]) AS w (sv_name, sv_id)
			JOIN services s USING (sv_id, sv_name)`, w.names, w.ids).
			Query(func(rows pgx.Rows) error {
				for rows.Next() {
					var user int64
					var s serviceID
					if err := rows.Scan(&user, &s.service, &s.id); err != nil {
						return err
					}
					taken.takeService(s, user)
				}
				return rows.Err()
			})
	}
}
