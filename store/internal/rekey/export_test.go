package rekey

import (
	"context"
	"fmt"
)

// SampledRows returns the rows of a sample as "gh 17".
func (k *Rekeyer) SampledRows(ctx context.Context) (names []string, err error) {
	rows, err := k.sample(ctx)
	for _, row := range rows {
		names = append(names, fmt.Sprint(row.service, " ", row.userID))
	}
	return names, err
}
