package commit

import (
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/glotpod/ident/actor"
)

// uuids is a parameter of type uuid[]. pgx would convert the UUIDs of other packages to text
// first, one by one.
type uuids = pgtype.FlatArray[pgtype.UUID]

// uuidOf returns a request id as a parameter. The zero id is NULL.
func uuidOf(id actor.RequestID) pgtype.UUID {
	return pgtype.UUID{Bytes: id, Valid: id != (actor.RequestID{})}
}
