package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/devcluster"
	"github.com/glotpod/ident/config"
)

// A privateCluster has its data in a temporary folder. For each number of instances to measure there is
// a cluster. All use the same servers, each with a virtual host and a database of its own.
type privateCluster struct {
	first   *devcluster.Cluster
	dir     string
	numbers []int // of instances
}

// openCluster creates the folder. It starts nothing.
func openCluster(o options, env *cli.Env) (_ *privateCluster, err error) {
	program, err := devcluster.FindProgram()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "glotpod-ident-bench-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if os.Geteuid() == 0 {
		if err := os.Chmod(dir, 0o711); err != nil { // for PostgreSQL's user
			return nil, err
		}
	}
	cluster, err := devcluster.Open(devcluster.Options{
		Program:   program,
		Folder:    filepath.Join(dir, "data"),
		Instances: o.local[0],
		LogFormat: config.LogConsole,
		Count:     true,
		Variables: []string{
			"GLOTPOD_IDENT__LOG__LEVEL=warn",
			"GLOTPOD_IDENT__CLUSTER__PARTITIONS=" + strconv.Itoa(o.partitions),
			"GLOTPOD_IDENT__CLUSTER__QUEUE_TYPE=" + o.queueType,
		},
		Environ: env.Environ,
		Stdout:  io.Discard,
		Stderr:  env.Stderr,
	})
	if err != nil {
		return nil, err
	}
	return &privateCluster{first: cluster, dir: dir, numbers: o.local}, nil
}

// start starts the servers, and the cluster of each number of instances.
func (c *privateCluster) start(ctx context.Context, progress *cli.StatusLine) (clusters []*devcluster.Cluster, err error) {
	progress.Show("starting RabbitMQ and PostgreSQL in %s", c.dir)
	if err := c.first.StartServers(ctx); err != nil {
		return nil, err
	}
	for i, n := range c.numbers {
		cluster := c.first
		if i > 0 {
			if cluster, err = c.first.Beside(ctx, fmt.Sprintf("bench-%d", n), n); err != nil {
				return nil, err
			}
		}
		progress.Show("starting %d instances", n)
		if err := cluster.StartInstances(ctx); err != nil {
			return nil, err
		}
		clusters = append(clusters, cluster)
	}
	return clusters, nil
}

// stop kills all processes and deletes the data.
func (c *privateCluster) stop() error {
	c.first.Kill()
	c.first.Close()
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("remove the temporary data: %w", err)
	}
	return nil
}
