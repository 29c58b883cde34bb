// Package serve is the command serve, which runs an instance: its database, its HTTP
// server and its log.
package serve

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/actor/msgpack"
	"github.com/glotpod/ident/cluster"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/clusterview"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/cmd/internal/operate"
	"github.com/glotpod/ident/cmd/internal/telemetry"
	"github.com/glotpod/ident/cmd/internal/web"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

// New returns the command serve.
func New(env *cli.Env) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "run an instance (the default command)",
		Long: `Runs an instance until SIGTERM or SIGINT. The instance hands over its partitions before
it ends. A second signal ends the process at once.`,
		RunE: func(c *cobra.Command, _ []string) error { return run(c.Context(), env) },
	}
}

func run(ctx context.Context, env *cli.Env) error {
	c, err := config.Load(env.Environ)
	if err != nil {
		return err
	}
	log := newLogger(c.Log, env.Stderr)
	defer log.Sync()
	if err := serve(ctx, c, log, env.Version); err != nil {
		log.Error("ended", zap.Error(err), zap.Int("status", cli.StatusOf(err)))
		return cli.WithStatus(cli.StatusOf(err), nil)
	}
	log.Info("ended")
	return nil
}

// serve runs an instance until ctx is done.
func serve(ctx context.Context, c *config.Config, log *zap.Logger, version string) error {
	log.Info("starting", zap.String("version", version), zap.String("instance", c.Cluster.Instance))
	for _, w := range c.Warnings {
		log.Warn("setting should be corrected", zap.String("setting", w.Key), zap.Error(w))
	}
	registry := newRegistry(version)
	server, err := web.Listen(webOptions(c, registry, log, version))
	if err != nil {
		return err
	}
	defer server.Close()
	sending, err := telemetry.Open(telemetry.Options{
		Tracing:  c.Tracing,
		Instance: c.Cluster.Instance,
		Version:  version,
		Metrics:  registry,
		Log:      log,
	})
	if err != nil {
		return err
	}
	defer sending.Close()

	defer runtime.KeepAlive(make([]byte, heapFloor))
	registered, err := register(ctx, c, log, version)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	users := registered.users
	defer users.Close()
	users.PrepareConnections(ctx)
	defer checkKeys(ctx, users)()
	secret, err := clusterSecret(c)
	if err != nil {
		return err
	}

	requests := connect.Broker(c, log, "serve", version)
	requests.MaxBody = c.Limits.BodyBytes
	instance := cluster.New(cluster.Options{
		Store:        users,
		Broker:       requests,
		Name:         c.Cluster.Instance,
		Start:        registered.start,
		Version:      version,
		Partitions:   c.Cluster.Partitions,
		Weight:       c.Cluster.Weight,
		QueueType:    registered.queueType,
		Generations:  store.Generations(users),
		CommitStatus: store.CommitStatus(users),
		Secret:       secret,
		TokenReaders: c.Access.Tokens,
		Prefetch:     c.AMQP.Prefetch,
		Mailbox:      c.Actor.Mailbox,
		Limits:       msgpack.Limits{Bytes: c.Limits.BodyBytes, Depth: c.Limits.Depth, Values: c.Limits.Values},
		InFlight:     int64(c.Limits.InFlightBytes),
		Cache:        cacheOptions(c),
		Insist:       c.AMQP.Insist,
		Grace:        c.Shutdown.Grace,
		Log:          log,
		Tracer:       sending.Tracer,
	})
	registry.MustRegister(users, instance)
	server.SetInstance(instance)
	return instance.Run(ctx)
}

// webOptions returns the options of the HTTP server.
func webOptions(c *config.Config, registry *prometheus.Registry, log *zap.Logger, version string) web.Options {
	o := web.Options{
		Address: c.HTTP.Listen,
		SSLCert: c.HTTP.SSLCert,
		SSLKey:  c.HTTP.SSLKey,
		Pprof:   c.HTTP.Pprof,
		Metrics: registry,
		Watcher: clusterview.NewWatcher(c.Cluster.Instance, connect.Broker(c, zap.NewNop(), "watch", version)),
		Log:     log,
	}
	if c.HTTP.AdminTokenFile != "" {
		o.AdminToken, o.Operator = c.HTTP.AdminToken, operate.Operator{Config: c, Version: version}
	}
	return o
}

// heapFloor is the size in bytes of an allocation that is never used. It makes the heap
// look larger to the garbage collector, which runs when the heap has doubled. Without it,
// the garbage collector would run each time a few megabytes have been allocated, and
// would take a fifth of the CPU time of a write. The pages of the allocation are never
// touched, so that they take no memory; the additional garbage does.
const heapFloor = 32 << 20

// newRegistry returns a registry with the metrics of the process.
func newRegistry(version string) *prometheus.Registry {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "glotpod_ident_build_info",
		Help:        "Always 1. The labels are the version of the program and of Go.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
	})
	build.Set(1)
	r := prometheus.NewRegistry()
	r.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// checkKeys starts a check of the encryption keys in the background. stop cancels the
// check and waits for its end.
func checkKeys(ctx context.Context, users *store.Store) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var checking sync.WaitGroup
	checking.Go(func() { users.CheckKeyring(ctx) })
	return func() {
		cancel()
		checking.Wait()
	}
}

// clusterSecret derives the secrets that only the instances of a cluster know, one from
// each encryption key.
func clusterSecret(c *config.Config) (secret [][]byte, err error) {
	for _, key := range c.Database.EncryptionKeys {
		encryption := key.Reveal()
		derived, err := hkdf.Key(sha256.New, encryption[:], nil, "glotpod.ident cluster", sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("derive the secret of the cluster: %w", err)
		}
		secret = append(secret, derived)
	}
	return secret, nil
}

// cacheOptions returns the limits of the cache of users, nil for no cache.
func cacheOptions(c *config.Config) *actor.CacheOptions {
	if !c.Actor.ReadCache {
		return nil
	}
	return &actor.CacheOptions{Users: c.Actor.WarmUsers, Bytes: int64(c.Actor.WarmBytes), Idle: c.Actor.Idle}
}

const (
	// The first maintenance of the tables starts at a random time after the start of the
	// instance, so that instances that start together do not do it together.
	minMaintainAfter    = 20 * time.Second
	maintainAfterSpread = 40 * time.Second
)
