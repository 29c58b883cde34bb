package operate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/glotpod/ident/cluster/client"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
)

// deletePause is how long DeleteUser waits until it tries again.
const deletePause = 500 * time.Millisecond

// DeleteUser has the service delete a user, and repeats the request until there is a reply or ctx
// is done. existed is false if there is no such user.
func DeleteUser(ctx context.Context, c *config.Config, version string, id int64) (existed bool, err error) {
	sameID := client.WithMessageID(ctx, uuid.NewString())
	for {
		err := deleteUser(sameID, c, version, id)
		refusal, refused := errors.AsType[*client.Error](err)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, client.ErrNotFound):
			return false, nil
		case refused && !errors.Is(err, client.ErrInvocationFailed):
			return false, fmt.Errorf("the service refuses to delete the user: %s", refusal.Code)
		}
		if wait.For(ctx, deletePause) != nil {
			return false, err
		}
	}
}

func deleteUser(ctx context.Context, c *config.Config, version string, id int64) error {
	users, err := connect.Client(ctx, c, "user", version)
	if err != nil {
		return err
	}
	defer users.Close()
	return users.Delete(ctx, id)
}
