package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
)

// linksMost is how many different links there may be.
const linksMost = 1 << 24

// linkID is the id of link n, as long as those of the API: pl_ and 32 lower-case
// hex digits. The last 8 are n, so that the stand-in can tell the links apart;
// the others look random, so that nothing can gain by compressing them.
func linkID(n int) string {
	return fmt.Sprintf("pl_%016x%08x%08x", mix(uint64(n)), uint32(mix(uint64(n)+linksMost)), n)
}

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// linkNumber reads n back.
func linkNumber(id []byte) (n int, ok bool) {
	const length = 35
	if len(id) != length || string(id[:3]) != "pl_" {
		return 0, false
	}
	v, err := strconv.ParseUint(string(id[length-8:]), 16, 32)
	return int(v), err == nil && v < linksMost
}

// writeManifest writes links first to first+n-1 as a CSV of one column, with a
// header, and returns its path.
func (b *bench) writeManifest(first, n int) (string, error) {
	path := fmt.Sprintf("%s/links-%d-%d.csv", b.dir, first, n)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	fmt.Fprintln(w, "id")
	for i := first; i < first+n; i++ {
		fmt.Fprintln(w, linkID(i))
	}
	if err := w.Flush(); err != nil {
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	return path, nil
}

// readManifest reads the links of a manifest.
func readManifest(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var ids []string
	lines := bufio.NewScanner(f)
	lines.Scan() // the header
	for lines.Scan() {
		ids = append(ids, lines.Text())
	}
	return ids, lines.Err()
}
