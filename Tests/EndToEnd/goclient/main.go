// goclient speaks to a KMS plugin with grpc-go, dialling as kube-apiserver does.
//
//	goclient -socket PATH [-authority A] roundtrip
//	goclient -socket PATH -n 100000 -c 64 load      calls of both APIs; checks every reply
//	goclient -socket PATH -n 0 -rate 400 load       the same until SIGTERM, at most so many a second
//	goclient -socket PATH -n 10000 -c 64 cancel     gives calls up at random moments
//
// The last line of output is one JSON object; the exit code is 0 only if every call ended as it must.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	mathrand "math/rand"
	"net"
	"os"
	"os/signal"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kmsapi/v1beta1"
	"kmsapi/v2"
)

var (
	socket    = flag.String("socket", "", "path of the socket, or @name")
	authority = flag.String("authority", "", "`:authority` to send; empty: what grpc-go makes of the path")
	timeout   = flag.Duration("timeout", 3*time.Second, "deadline of each call")
	count     = flag.Int("n", 1000, "number of calls; 0: until SIGTERM")
	workers   = flag.Int("c", 8, "calls in flight")
	rate      = flag.Int("rate", 0, "calls per second of load; 0: as fast as they go")
)

type result struct {
	Calls     int64  `json:"calls"`
	OK        int64  `json:"ok"`
	Cancelled int64  `json:"cancelled"`
	Failed    int64  `json:"failed"`
	Error     string `json:"error,omitempty"`
	KeyID     string `json:"key_id,omitempty"`
	Version   string `json:"version,omitempty"`
	Refused   int64  `json:"refused"` // connections; calls wait for one that is not

	// Of load: how many calls failed for which reason, and milliseconds that those took that did not.
	Errors map[string]int64 `json:"errors,omitempty"`
	Median float64          `json:"median_ms,omitempty"`
	P99    float64          `json:"p99_ms,omitempty"`
	Worst  float64          `json:"worst_ms,omitempty"`
}

var refused atomic.Int64

func dial() (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithInsecure(),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: *socket, Net: "unix"})
			if err != nil {
				refused.Add(1)
				return nil, err
			}
			return conn, nil
		}),
	}
	if *authority != "" {
		options = append(options, grpc.WithAuthority(*authority))
	}
	return grpc.Dial(*socket, options...)
}

func random(size int) []byte {
	b := make([]byte, size)
	if _, err := rand.Read(b); err != nil {
		panic(err)
	}
	return b
}

func roundtrip(conn *grpc.ClientConn) (result, error) {
	out := result{}
	new, old := v2.NewKeyManagementServiceClient(conn), v1beta1.NewKeyManagementServiceClient(conn)
	call := func() (context.Context, context.CancelFunc) {
		out.Calls++
		return context.WithTimeout(context.Background(), *timeout)
	}

	ctx, done := call()
	state, err := new.Status(ctx, &v2.StatusRequest{})
	done()
	if err != nil {
		return out, fmt.Errorf("v2 Status: %v", err)
	}
	if state.Healthz != "ok" {
		return out, fmt.Errorf("v2 Status: healthz %q", state.Healthz)
	}
	out.KeyID, out.Version = state.KeyId, state.Version

	plain := random(32)
	ctx, done = call()
	sealed, err := new.Encrypt(ctx, &v2.EncryptRequest{Plaintext: plain, Uid: "goclient"})
	done()
	if err != nil {
		return out, fmt.Errorf("v2 Encrypt: %v", err)
	}
	if sealed.KeyId != state.KeyId {
		return out, fmt.Errorf("v2 Encrypt: key_id %q, Status said %q", sealed.KeyId, state.KeyId)
	}
	ctx, done = call()
	opened, err := new.Decrypt(ctx, &v2.DecryptRequest{
		Ciphertext: sealed.Ciphertext, KeyId: sealed.KeyId, Annotations: sealed.Annotations, Uid: "goclient"})
	done()
	if err != nil {
		return out, fmt.Errorf("v2 Decrypt: %v", err)
	}
	if !bytes.Equal(opened.Plaintext, plain) {
		return out, fmt.Errorf("v2 Decrypt: other bytes came back")
	}

	ctx, done = call()
	version, err := old.Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"})
	done()
	if err != nil {
		return out, fmt.Errorf("v1beta1 Version: %v", err)
	}
	if version.Version != "v1beta1" {
		return out, fmt.Errorf("v1beta1 Version: %q", version.Version)
	}
	for _, plain := range [][]byte{[]byte("ping"), random(32)} {
		ctx, done = call()
		sealed, err := old.Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: plain})
		done()
		if err != nil {
			return out, fmt.Errorf("v1beta1 Encrypt: %v", err)
		}
		ctx, done = call()
		opened, err := old.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: sealed.Cipher})
		done()
		if err != nil {
			return out, fmt.Errorf("v1beta1 Decrypt: %v", err)
		}
		if !bytes.Equal(opened.Plain, plain) {
			return out, fmt.Errorf("v1beta1 Decrypt: other bytes came back")
		}
	}

	ctx, done = call()
	err = conn.Invoke(ctx, "/v2.KeyManagementService/Nope", &v2.StatusRequest{}, &v2.StatusResponse{})
	done()
	if status.Code(err) != codes.Unimplemented {
		return out, fmt.Errorf("unknown method: %v", err)
	}
	out.OK = out.Calls
	return out, nil
}

// stopped is set once no further call is wanted.
var stopped atomic.Bool

// spread runs `one` *count times over *workers goroutines.
func spread(one func() error) error {
	var left = int64(*count)
	var first error
	var once sync.Once
	var group sync.WaitGroup
	for i := 0; i < *workers; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for !stopped.Load() && atomic.AddInt64(&left, -1) >= 0 {
				if err := one(); err != nil {
					once.Do(func() { first = err })
				}
			}
		}()
	}
	group.Wait()
	return first
}

// load makes *count calls: Encrypt and Decrypt of both APIs in turn, and compares what comes back.
func load(conn *grpc.ClientConn) (result, error) {
	out := result{Errors: map[string]int64{}}
	new, old := v2.NewKeyManagementServiceClient(conn), v1beta1.NewKeyManagementServiceClient(conn)
	const turn = 4
	var interval time.Duration
	if *rate > 0 {
		interval = time.Second * time.Duration(turn**workers) / time.Duration(*rate)
	}
	if *count == 0 {
		*count = math.MaxInt
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		go func() {
			<-stop
			stopped.Store(true)
		}()
	}
	*count /= turn

	var took []time.Duration
	var lock sync.Mutex
	call := func(name string, one func(context.Context) error) error {
		ctx, done := context.WithTimeout(context.Background(), *timeout)
		defer done()
		began := time.Now()
		err := one(ctx)
		lock.Lock()
		defer lock.Unlock()
		out.Calls++
		if err != nil {
			out.Failed++
			out.Errors[name+": "+err.Error()]++
			return fmt.Errorf("%s: %v", name, err)
		}
		out.OK++
		took = append(took, time.Since(began))
		return nil
	}
	compare := func(opened, plain []byte) error {
		if !bytes.Equal(opened, plain) {
			return fmt.Errorf("other bytes came back")
		}
		return nil
	}
	err := spread(func() error {
		began := time.Now()
		defer func() { time.Sleep(interval - time.Since(began)) }()
		plain := random(32)
		var sealed *v2.EncryptResponse
		if err := call("v2 Encrypt", func(ctx context.Context) (err error) {
			sealed, err = new.Encrypt(ctx, &v2.EncryptRequest{Plaintext: plain, Uid: "load"})
			return
		}); err != nil {
			return err
		}
		if err := call("v2 Decrypt", func(ctx context.Context) error {
			opened, err := new.Decrypt(ctx, &v2.DecryptRequest{
				Ciphertext: sealed.Ciphertext, KeyId: sealed.KeyId, Annotations: sealed.Annotations, Uid: "load"})
			if err != nil {
				return err
			}
			return compare(opened.Plaintext, plain)
		}); err != nil {
			return err
		}
		var former *v1beta1.EncryptResponse
		if err := call("v1beta1 Encrypt", func(ctx context.Context) (err error) {
			former, err = old.Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: plain})
			return
		}); err != nil {
			return err
		}
		return call("v1beta1 Decrypt", func(ctx context.Context) error {
			opened, err := old.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: former.Cipher})
			if err != nil {
				return err
			}
			return compare(opened.Plain, plain)
		})
	})
	sort.Slice(took, func(a, b int) bool { return took[a] < took[b] })
	if n := len(took); n > 0 {
		milliseconds := func(index int) float64 { return float64(took[index].Microseconds()) / 1000 }
		out.Median, out.P99, out.Worst = milliseconds(n/2), milliseconds(n*99/100), milliseconds(n-1)
	}
	return out, err
}

// cancel makes *count calls and gives each up after at most a millisecond.
//
// Each is followed by a call whose answer is waited for, as every client has some: one that only gives calls up, as fast
// as it can, is a flood, which a plugin may cut.
func cancel(conn *grpc.ClientConn) (result, error) {
	out := result{}
	client := v2.NewKeyManagementServiceClient(conn)
	err := spread(func() error {
		ctx, done := context.WithCancel(context.Background())
		timer := time.AfterFunc(time.Duration(mathrand.Intn(1000))*time.Microsecond, done)
		defer timer.Stop()
		defer done()
		atomic.AddInt64(&out.Calls, 1)
		_, err := client.Encrypt(ctx, &v2.EncryptRequest{Plaintext: random(32), Uid: "cancel"})
		switch status.Code(err) {
		case codes.OK:
			atomic.AddInt64(&out.OK, 1)
		case codes.Canceled:
			atomic.AddInt64(&out.Cancelled, 1)
		default:
			atomic.AddInt64(&out.Failed, 1)
			return err
		}
		patient, end := context.WithTimeout(context.Background(), *timeout)
		defer end()
		if _, err := client.Status(patient, &v2.StatusRequest{}); err != nil {
			atomic.AddInt64(&out.Failed, 1)
			return err
		}
		return nil
	})
	return out, err
}

func main() {
	flag.Parse()
	commands := map[string]func(*grpc.ClientConn) (result, error){"roundtrip": roundtrip, "load": load, "cancel": cancel}
	command, known := commands[flag.Arg(0)]
	if !known || *socket == "" || flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: goclient -socket PATH [options]", strings.Join([]string{"roundtrip", "load", "cancel"}, "|"))
		os.Exit(64)
	}
	conn, err := dial()
	out := result{}
	if err == nil {
		out, err = command(conn)
		conn.Close()
	}
	if err != nil {
		out.Error = err.Error()
	}
	out.Refused = refused.Load()
	line, _ := json.Marshal(out)
	fmt.Println(string(line))
	if err != nil {
		os.Exit(1)
	}
}
