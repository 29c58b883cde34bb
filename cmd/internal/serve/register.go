package serve

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster"
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
		if errors.Is(err, errAskingBroker) {
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
	if err = logRepartitioned(ctx, c, users, log); err != nil {
		return registration{}, err
	}
	r.start, err = users.NextStart(ctx)
	return r, err
}

// logRepartitioned logs that a repartition has changed what the settings say.
func logRepartitioned(ctx context.Context, c *config.Config, users *store.Store, log *zap.Logger) error {
	p, err := users.Parameters(ctx)
	if err == nil && p.First > 0 && (p.Partitions != c.Cluster.Partitions || p.QueueType != c.Cluster.QueueType && c.Cluster.QueueType != config.QueueAuto) {
		log.Info("partitions are those of the last repartition, not of the settings", zap.Int("partitions", p.Partitions), zap.String("queue_type", p.QueueType))
	}
	return err
}

// ensureParameters compares the settings with the parameters of the cluster. If the cluster has
// none yet, it gets those of the settings.
func ensureParameters(ctx context.Context, c *config.Config, users *store.Store, log *zap.Logger, version string) (queueType string, err error) {
	ours := ownership.Parameters{Partitions: c.Cluster.Partitions, Table: ownership.TableVersion, QueueType: c.Cluster.QueueType}
	if ours.QueueType != config.QueueAuto {
		return ours.QueueType, users.EnsureParameters(ctx, ours)
	}
	theirs, err := users.Parameters(ctx)
	if err != nil {
		return "", err
	}
	ours.QueueType = theirs.QueueType
	var why string
	if ours.QueueType == "" {
		if ours.QueueType, why, err = chooseQueueType(ctx, connect.Broker(c, log, "start", version)); err != nil {
			return "", err
		}
	}
	err = users.EnsureParameters(ctx, ours)
	if err == nil && why != "" {
		log.Info("type of the partition queues chosen for a new cluster", zap.String("queue_type", ours.QueueType), zap.String("why", why))
	}
	if other, ok := errors.AsType[*store.ParametersError](err); ok && other.Theirs.QueueType != ours.QueueType {
		ours.QueueType = other.Theirs.QueueType // another instance was first, and has chosen another type
		err = users.EnsureParameters(ctx, ours)
	}
	return ours.QueueType, err
}

// errAskingBroker is returned if the broker cannot be asked for what a new cluster needs.
var errAskingBroker = errors.New("asking the broker which type the partition queues should have")

// chooseQueueType returns the type of the partition queues that suits a broker. If it has partition
// queues, that is their type. Otherwise it is quorum queues if there are several addresses, if
// connections lead to several nodes, or if that cannot be told. If all lead to one node, the classic queues will be on that node, so they
// are unavailable only when the connections are lost too.
func chooseQueueType(ctx context.Context, o broker.Options) (queueType, why string, err error) {
	samples := connect.SampleNodes(ctx, o)
	defer connect.CloseSamples(samples)
	answered := slices.IndexFunc(samples, func(s connect.NodeSample) bool { return s.Err == nil })
	if answered < 0 {
		return "", "", fmt.Errorf("%w: %w", errAskingBroker, samples[0].Err)
	}
	present, err := existingQueueType(ctx, samples[answered].Conn)
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", errAskingBroker, err)
	}
	if present != "" {
		return present, "the broker has partition queues of this type", nil
	}
	if len(o.Addresses) > 1 {
		return config.QueueQuorum, "amqp.host lists several hosts", nil
	}
	for _, s := range samples {
		switch {
		case s.Err != nil || !s.Known:
			return config.QueueQuorum, "the nodes of this broker cannot be told apart", nil
		case s.Node != samples[0].Node:
			return config.QueueQuorum, "connections lead to several nodes of the broker", nil
		}
	}
	return config.QueueClassic, "all connections lead to one node of the broker; if there are others, or will be, set cluster.queue_type to quorum before the first start", nil
}

// existingQueueType returns the type of the partition queues that the broker has, or "" if it has
// none. It makes no queue.
func existingQueueType(ctx context.Context, conn *amqp.Connection) (string, error) {
	defer context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })() // a declaration ignores ctx
	kind, found, err := cluster.QueueKind(conn, cluster.PartitionQueue(0))
	switch {
	case err != nil || !found:
		return "", err
	case kind == config.QueueClassic:
		return config.QueueClassic, nil
	}
	return config.QueueQuorum, nil // with arguments
}
