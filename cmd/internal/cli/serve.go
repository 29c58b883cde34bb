package cli

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cluster/broker"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

func runServe(ctx context.Context, args []string, _, stderr io.Writer) int {
	flags := newFlags("serve", stderr, "", "Runs an instance until it is asked to stop (SIGTERM, SIGINT).")
	if status, done := flags.parse(args, 0); done {
		return status
	}
	c, err := config.Load(os.Environ())
	if err != nil {
		return fail(stderr, err)
	}
	log := newLogger(c.Log, stderr)
	defer log.Sync()
	if err := serve(ctx, c, log); err != nil {
		log.Error("ended", zap.Error(err), zap.Int("status", statusOf(err)))
		return statusOf(err)
	}
	log.Info("ended")
	return exitOK
}

// serve runs an instance until ctx is done, which is no error.
func serve(ctx context.Context, c *config.Config, log *zap.Logger) error {
	log.Info("starting", zap.String("version", version), zap.String("instance", c.Cluster.Instance))
	registry := newRegistry()
	server, err := listenHTTP(c, registry, log)
	if err != nil {
		return err
	}
	defer server.close()
	tracing, err := openTracing(c, log)
	if err != nil {
		return err
	}
	defer tracing.close()

	defer runtime.KeepAlive(make([]byte, heapFloor))
	users, start, err := openStore(ctx, c, log)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer users.Close()
	users.PrepareConnections(ctx)
	defer checkKeys(ctx, users)()
	secret, err := clusterSecret(c)
	if err != nil {
		return err
	}

	requests := brokerOptions(c, log, "serve")
	requests.MaxBody = c.Limits.BodyBytes
	instance := cluster.New(cluster.Options{
		Store:      users,
		Broker:     requests,
		Name:       c.Cluster.Instance,
		Start:      start,
		Version:    version,
		Partitions: c.Cluster.Partitions,
		QueueType:  c.Cluster.QueueType,
		Secret:     secret,
		Prefetch:   c.AMQP.Prefetch,
		Mailbox:    c.Actor.Mailbox,
		Limits:     msgpack.Limits{Bytes: c.Limits.BodyBytes, Depth: c.Limits.Depth, Values: c.Limits.Values},
		InFlight:   int64(c.Limits.InFlightBytes),
		Warm:       warmUsers(c),
		Insist:     c.AMQP.Insist,
		Grace:      c.Shutdown.Grace,
		Log:        log,
		Tracer:     tracing.tracer,
	})
	registry.MustRegister(users, instance)
	server.serve(instance)
	return instance.Run(ctx)
}

// heapFloor is how many bytes the garbage collector takes for used from the start. It
// comes when as much again has been allocated; by itself it would come for each few
// megabytes, as little as is in use, and take a fifth of the CPU time of a write.
// Nobody touches these bytes, so they take no memory; the garbage beside them does.
const heapFloor = 32 << 20

// newRegistry returns a registry with what there is to know about any process.
func newRegistry() *prometheus.Registry {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "glotpod_ident_build_info",
		Help:        "1, and by its labels which program this is.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
	})
	build.Set(1)
	r := prometheus.NewRegistry()
	r.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// checkKeys has the encryption keys checked, beside everything else. end breaks that
// off where it has to, and waits for it.
func checkKeys(ctx context.Context, users *store.Store) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var checking sync.WaitGroup
	checking.Go(func() { users.CheckKeyring(ctx) })
	return func() {
		cancel()
		checking.Wait()
	}
}

// openStore opens the database, as patiently as the settings say, and makes sure
// that this instance fits into the database's cluster. start is the number of
// this run.
func openStore(ctx context.Context, c *config.Config, log *zap.Logger) (users *store.Store, start int64, err error) {
	patience := cluster.Patience{Insist: c.AMQP.Insist}
	var final error // one that patience does not mend
	err = patience.Retry(ctx, func(err error) {
		log.Warn("database out of reach", zap.Error(err))
	}, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		var err error
		users, start, err = register(ctx, c, log)
		if statusOf(err) == exitSettings {
			final = err
			return nil
		}
		return err
	})
	if final != nil {
		return nil, 0, final
	}
	return users, start, err
}

func register(ctx context.Context, c *config.Config, log *zap.Logger) (_ *store.Store, start int64, err error) {
	options := storeOptions(c, log)
	options.Maintain, options.MaintainAfter = true, tendAfter+rand.N(tendSpread)
	users, err := store.Open(ctx, options)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			users.Close()
		}
	}()
	err = users.EnsureParameters(ctx, ownership.Parameters{
		Partitions: c.Cluster.Partitions,
		Table:      ownership.TableVersion,
		QueueType:  c.Cluster.QueueType,
	})
	if err != nil {
		return nil, 0, err
	}
	start, err = users.NextStart(ctx)
	return users, start, err
}

// clusterSecret derives what the instances of a cluster, and nobody else, know:
// they have the encryption keys in common.
func clusterSecret(c *config.Config) (secret [][]byte, err error) {
	for _, key := range c.Database.EncryptionKeys {
		encryption := key.Reveal()
		derived, err := hkdf.Key(sha256.New, encryption[:], nil, "glotpod.ident cluster", sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("deriving the cluster's secret: %w", err)
		}
		secret = append(secret, derived)
	}
	return secret, nil
}

// warmUsers returns the bounds on the users who are kept in memory, nil for none.
func warmUsers(c *config.Config) *actor.CacheOptions {
	if !c.Actor.ReadCache {
		return nil
	}
	return &actor.CacheOptions{Users: c.Actor.WarmUsers, Bytes: int64(c.Actor.WarmBytes), Idle: c.Actor.Idle}
}

const (
	connectTimeout = 8 * time.Second

	// The tables are first tended at some time after a start.
	tendAfter  = 20 * time.Second
	tendSpread = 40 * time.Second
)

func storeOptions(c *config.Config, log *zap.Logger) store.Options {
	pg := c.Database.Postgres
	keys := make([][32]byte, len(c.Database.EncryptionKeys))
	for i, key := range c.Database.EncryptionKeys {
		keys[i] = key.Reveal()
	}
	return store.Options{
		Host:                  pg.Host,
		Port:                  pg.Port,
		Database:              pg.Database,
		User:                  pg.User,
		Password:              pg.Password.Reveal(),
		SSLMode:               pg.SSLMode,
		SSLRootCert:           pg.SSLRootCert,
		MaxConnections:        pg.MaxConnections,
		Name:                  c.Cluster.Instance,
		Keyring:               store.NewKeyring(keys...),
		TokensInNotifications: c.Notifications.IncludeAccessTokens,
		AuditKeep:             c.Audit.Keep,
		Log:                   log,
	}
}

// brokerOptions says how to reach RabbitMQ. purpose tells the connections of one
// instance apart.
func brokerOptions(c *config.Config, log *zap.Logger, purpose string) broker.Options {
	return broker.Options{
		Host:           c.AMQP.Host,
		Port:           c.AMQP.Port,
		VHost:          c.AMQP.VHost,
		LoginMethod:    c.AMQP.LoginMethod,
		Login:          c.AMQP.Login,
		Password:       c.AMQP.Password.Reveal(),
		TLS:            c.AMQP.TLSConfig,
		Heartbeat:      c.AMQP.Heartbeat,
		ConnectionName: fmt.Sprintf("%s/%s", c.Cluster.Instance, purpose),
		Version:        version,
		OnFiltered: func(f broker.Filtered) {
			log.Warn("message changed before it was read", zap.String("why", string(f.Reason)))
		},
	}
}
