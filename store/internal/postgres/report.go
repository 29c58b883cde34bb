package postgres

import (
	"context"
	"fmt"

	"go.uber.org/zap"
)

// MaxPageBytes bounds what one statement reads of a table with rows that may be large. A
// page has at least one row.
const MaxPageBytes = 4 << 20

// LogError logs an error of the database and returns it with a description of what was
// being done. It logs nothing if ctx is done: then the caller has given up.
func LogError(ctx context.Context, log *zap.Logger, doing string, err error) error {
	if ctx.Err() == nil {
		log.Error("database", zap.String("doing", doing), zap.Error(err))
	}
	return fmt.Errorf("%s: %w", doing, err)
}
