package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/store/archive"
	"github.com/glotpod/ident/store/internal/keyring"
	"github.com/glotpod/ident/store/internal/schema"
	"github.com/glotpod/ident/store/internal/userrows"
)

// An ImportResult says what an import did with a user.
type ImportResult struct {
	Kind   ImportOutcome
	Reason string // for people, without stored or imported values; may be ""
}

// An ImportOutcome is the kind of an ImportResult.
type ImportOutcome int

const (
	Imported     ImportOutcome = iota // in a dry run: would be imported
	AlreadyThere                      // the same user is stored with the same content
	Conflicting                       // with another user, with the stored user, or with new users
	Unreadable                        // no key decrypts a token, or it is missing
)

// An importBatch is one attempt to import users.
type importBatch struct {
	keyring     *keyring.Keyring
	emptyTokens bool
	maxID       int64                      // the greatest id that may be imported
	stored      map[int64]*userrows.Stored // by id: the users with an id, email or account of an imported user
	owners      userrows.KeyOwners         // of emails and accounts
	sequences   map[int64]int64            // by id: of the last change of a user that was deleted
	users       userrows.Users             // to insert
	accounts    userrows.Accounts          // to insert
}

// newBatch reads the stored users that may conflict with an import.
func (im *Importer) newBatch(ctx context.Context, users []archive.User) (*importBatch, error) {
	var ids []int64
	var emails []string
	accounts := make(map[string][]int64) // by service
	for i := range users {
		ids = append(ids, users[i].ID)
		emails = append(emails, users[i].Email)
		for _, service := range userrows.Services {
			if a := archivedAccount(&users[i], service); a != nil {
				accounts[service] = append(accounts[service], a.ID)
			}
		}
	}
	var found []*userrows.Stored
	collect := func(rows pgx.Rows) error { return userrows.Collect(rows, &found) }
	statements := new(pgx.Batch)
	statements.Queue(userrows.FindByID, ids).Query(collect)
	statements.Queue(userrows.FindByEmail, emails).Query(collect)
	for service, ids := range accounts {
		statements.Queue(userrows.FindByService, ids, service).Query(collect)
	}
	b := &importBatch{keyring: im.keyring, emptyTokens: im.options.EmptyTokens, maxID: im.maxID, sequences: make(map[int64]int64)}
	if drawn := slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { return id > im.drawn }); len(drawn) > 0 {
		statements.Queue(lastSequences, drawn).Query(b.readSequences)
	}
	if err := im.conn.SendBatch(ctx, statements).Close(); err != nil {
		return nil, err
	}
	b.stored = make(map[int64]*userrows.Stored, len(found))
	for _, u := range found {
		b.stored[u.User.ID] = u
		b.owners.Add(&u.User)
	}
	return b, nil
}

// lastSequences reads the numbers of the last changes of users from the log. So a user that was
// deleted and is imported again goes on with the next number.
const lastSequences = "SELECT user_id, max(sequence) FROM ident_log WHERE user_id = ANY($1::bigint[]) AND sequence IS NOT NULL GROUP BY user_id"

func (b *importBatch) readSequences(rows pgx.Rows) error {
	var user, sequence int64
	_, err := pgx.ForEachRow(rows, []any{&user, &sequence}, func() error {
		b.sequences[user] = sequence
		return nil
	})
	return err
}

func archivedAccount(u *archive.User, service string) *archive.Account {
	if service == "gh" {
		return u.GitHub
	}
	return u.Facebook
}

// decide decides what to do with a user, and plans it.
func (b *importBatch) decide(u *archive.User) (ImportResult, error) {
	next, reason, err := b.seal(u)
	if err != nil {
		return ImportResult{}, err
	}
	if reason != "" {
		return ImportResult{Unreadable, reason}, nil
	}
	if stored := b.stored[u.ID]; stored != nil {
		if fields := b.differences(stored, next, u); len(fields) > 0 {
			return ImportResult{Conflicting, "the user with this id differs in " + strings.Join(fields, ", ")}, nil
		}
		return ImportResult{AlreadyThere, ""}, nil
	}
	if u.ID > b.maxID {
		return ImportResult{Conflicting, fmt.Sprintf("with this id, less than %d would be left for new users", minFreeIDs)}, nil
	}
	if reason := b.conflict(&next.User); reason != "" {
		return ImportResult{Conflicting, reason}, nil
	}
	b.stored[u.ID] = next
	b.owners.Add(&next.User)
	b.planInsert(next)
	return ImportResult{}, nil
}

// conflict says which other user has the email or an account of a user, "" if none has.
func (b *importBatch) conflict(u *actor.User) string {
	if owner := b.owners.EmailOwner(u.Email); owner != 0 {
		return fmt.Sprintf("user %d has this email", owner)
	}
	for _, service := range userrows.Services {
		if a := *userrows.AccountOf(u, service); a != nil {
			if owner := b.owners.ServiceIDOwner(service, a.ID); owner != 0 {
				return fmt.Sprintf("user %d has this %s account", owner, schema.ServiceNames[service])
			}
		}
	}
	return ""
}

func (b *importBatch) planInsert(u *userrows.Stored) {
	b.users.Add(&u.User)
	for i, service := range userrows.Services {
		if a := *userrows.AccountOf(&u.User, service); a != nil {
			b.accounts.Add(u.User.ID, service, a.ID, u.Tokens[i])
		}
	}
}

// seal returns the rows of a user with tokens that the first key decrypts, or the reason why
// that is impossible.
func (b *importBatch) seal(u *archive.User) (_ *userrows.Stored, reason string, err error) {
	s := &userrows.Stored{User: actor.User{ID: u.ID, Name: u.Name, Email: u.Email, PictureURL: u.PictureURL}}
	s.User.Version.Sequence = max(u.Sequence, b.sequences[u.ID])
	for i, service := range userrows.Services {
		a := archivedAccount(u, service)
		if a == nil {
			continue
		}
		*userrows.AccountOf(&s.User, service) = &actor.Account{ID: a.ID}
		switch {
		case a.Token != "":
			if s.Tokens[i], err = b.keyring.Reseal([]byte(a.Token)); errors.Is(err, keyring.ErrNoKey) {
				return nil, "no key decrypts the access token of its " + schema.ServiceNames[service] + " account", nil
			}
		case b.emptyTokens:
			s.Tokens[i], err = b.keyring.Seal(nil)
		case b.stored[u.ID] == nil:
			return nil, "its " + schema.ServiceNames[service] + " account has no access token", nil
		}
		if err != nil {
			return nil, "", fmt.Errorf("encrypting an access token: %w", err)
		}
	}
	return s, "", nil
}

// differences names the fields in which a stored user differs from an imported one. A token
// that the archive omits does not differ.
func (b *importBatch) differences(stored, next *userrows.Stored, u *archive.User) (fields []string) {
	if stored.User.Name != next.User.Name {
		fields = append(fields, "name")
	}
	if stored.User.Email != next.User.Email {
		fields = append(fields, "email")
	}
	if !userrows.Equal(stored.User.PictureURL, next.User.PictureURL) {
		fields = append(fields, "picture_url")
	}
	for i, service := range userrows.Services {
		old, a := *userrows.AccountOf(&stored.User, service), *userrows.AccountOf(&next.User, service)
		switch {
		case old == nil && a == nil:
		case old == nil || a == nil || old.ID != a.ID:
			fields = append(fields, schema.ServiceNames[service])
		case archivedAccount(u, service).Token != "" && !b.keyring.SameContent(stored.Tokens[i], next.Tokens[i]):
			fields = append(fields, schema.ServiceNames[service]+".access_token")
		}
	}
	return fields
}
