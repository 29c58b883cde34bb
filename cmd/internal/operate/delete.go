package operate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/config"
)

const (
	// deleteTry is how long DeleteUser waits for a reply until it sends the request again.
	deleteTry = 10 * time.Second

	// deletePause is how long it waits until then after another failure.
	deletePause = 500 * time.Millisecond
)

// DeleteUser has the service delete a user, and repeats the request until there is a reply or ctx
// is done. existed is false if there is no such user.
func DeleteUser(ctx context.Context, c *config.Config, version string, id int64) (existed bool, err error) {
	message := uuid.NewString()
	for {
		try, cancel := context.WithTimeout(ctx, deleteTry)
		reply, err := call(try, c, version, "delete", message, map[string]any{"user_id": id})
		cancel()
		code, _ := reply["error"].(string)
		switch {
		case err == nil && code == "":
			return true, nil
		case err == nil && code == string(actor.NotFound):
			return false, nil
		case err == nil && code != string(actor.InvocationFailed):
			return false, fmt.Errorf("the service refuses to delete the user: %s", code)
		case err == nil:
			err = errors.New("the service cannot delete the user now")
		}
		if wait.For(ctx, deletePause) != nil {
			return false, err
		}
	}
}
