package commit

import (
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/glotpod/ident/actor"
)

// uuids are a parameter of type uuid[]. From those of other packages, pgx would make
// texts first, one by one.
type uuids = pgtype.FlatArray[pgtype.UUID]

// uuidOf is NULL for the zero identity.
func uuidOf(i actor.RequestID) pgtype.UUID {
	return pgtype.UUID{Bytes: i, Valid: i != (actor.RequestID{})}
}
