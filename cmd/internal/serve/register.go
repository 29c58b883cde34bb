package serve

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/cluster/wait"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

// A registration is what an instance needs to join the cluster of its database.
type registration struct {
	users     *store.Store
	start     int64  // the number of this start
	queueType string // of the partition queues
}

// register opens the database. It retries as the settings say. It fails if the
// parameters of this instance differ from those of the cluster.
func register(ctx context.Context, c *config.Config, log *zap.Logger, version string) (r registration, err error) {
	patience := wait.Retrier{Insist: c.AMQP.Insist}
	var final error // an error that a retry cannot mend
	err = patience.Retry(ctx, func(err error) {
		if _, ok := errors.AsType[*broker.DialError](err); ok {
			log.Warn("broker out of reach", zap.Error(err))
			return
		}
		log.Warn("database out of reach", zap.Error(err))
	}, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, connect.Timeout)
		defer cancel()
		var err error
		r, err = tryRegister(ctx, c, log, version)
		if cli.StatusOf(err) == cli.StatusSettings {
			final = err
			return nil
		}
		return err
	})
	if final != nil {
		return registration{}, final
	}
	return r, err
}

func tryRegister(ctx context.Context, c *config.Config, log *zap.Logger, version string) (_ registration, err error) {
	options := connect.Store(c, log)
	options.Maintain, options.MaintainAfter = true, minMaintainAfter+rand.N(maintainAfterSpread)
	users, err := store.Open(ctx, options)
	if err != nil {
		return registration{}, err
	}
	defer func() {
		if err != nil {
			users.Close()
		}
	}()
	r := registration{users: users}
	if r.queueType, err = ensureParameters(ctx, c, users, log, version); err != nil {
		return registration{}, err
	}
	r.start, err = users.NextStart(ctx)
	return r, err
}

// ensureParameters compares the settings with the parameters of the cluster. If the cluster has
// none yet, it gets those of the settings.
func ensureParameters(ctx context.Context, c *config.Config, users *store.Store, log *zap.Logger, version string) (queueType string, err error) {
	ours := ownership.Parameters{Partitions: c.Cluster.Partitions, Table: ownership.TableVersion, QueueType: c.Cluster.QueueType}
	if ours.QueueType != config.QueueAuto {
		return ours.QueueType, users.EnsureParameters(ctx, ours)
	}
	if ours.QueueType, err = users.QueueType(ctx); err != nil {
		return "", err
	}
	if ours.QueueType == "" {
		var why string
		if ours.QueueType, why, err = chooseQueueType(ctx, connect.Broker(c, log, "start", version)); err != nil {
			return "", err
		}
		log.Info("type of the partition queues chosen for a new cluster", zap.String("queue_type", ours.QueueType), zap.String("why", why))
	}
	err = users.EnsureParameters(ctx, ours)
	if other, ok := errors.AsType[*store.ParametersError](err); ok && other.Theirs.QueueType != ours.QueueType {
		ours.QueueType = other.Theirs.QueueType // another instance was first, and has chosen another type
		err = users.EnsureParameters(ctx, ours)
	}
	return ours.QueueType, err
}

// nodeSamples is how many connections to a broker are compared. Of three nodes that a proxy
// chooses at random, they miss two once in 2,000 times.
const nodeSamples = 8

// chooseQueueType returns the type of the partition queues that suits a broker: quorum queues if
// connections lead to several nodes, or if that cannot be told. If all lead to one node, the classic
// queues will be on that node, so they are not lost before the connections are.
func chooseQueueType(ctx context.Context, o broker.Options) (queueType, why string, err error) {
	first := ""
	for i := range nodeSamples {
		conn, err := broker.Dial(ctx, o)
		node, known := "", false
		if err == nil {
			defer connect.Close(conn) // later: a proxy may choose the node with the fewest connections
			node, known, err = connect.NodeOf(ctx, conn)
		}
		switch {
		case err != nil && (i == 0 || ctx.Err() != nil):
			return "", "", fmt.Errorf("asking the broker which type the partition queues should have: %w", err)
		case err != nil || !known:
			return config.QueueQuorum, "the nodes of this broker cannot be told apart", nil
		case i == 0:
			first = node
		case node != first:
			return config.QueueQuorum, "connections lead to several nodes of the broker", nil
		}
	}
	return config.QueueClassic, "all connections lead to one node of the broker; if there are others, set cluster.queue_type to quorum before the first start", nil
}
