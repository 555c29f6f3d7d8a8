package main

import (
	"context"
	"fmt"
	"io"
	"strings"
)

// A release tags all released modules at HEAD with one version.
type release struct {
	tree    *tree
	version string
	remote  string // the remote that gets the tags; empty means no push
	dry     bool
	try     func(context.Context) error // tries the modules from outside
	out     io.Writer
}

// run checks everything first and then tags each module after those that it requires. If one tag
// cannot be made, it removes the others. It pushes all tags or none.
func (r *release) run(ctx context.Context) error {
	t := r.tree
	if err := valid(r.version); err != nil {
		return err
	}
	if err := t.check(r.version); err != nil {
		return err
	}
	changed, err := command(ctx, t.root, nil, "git", "status", "--porcelain")
	if err != nil {
		return err
	}
	if changed != "" {
		return fmt.Errorf("the working tree has changes that HEAD does not have; commit them first:\n%s", strings.TrimRight(changed, "\n"))
	}
	var tags []string
	for _, m := range t.modules {
		if m.released() {
			tags = append(tags, m.tag(r.version))
		}
	}
	if err := r.absent(ctx, tags); err != nil {
		return err
	}
	if err := r.try(ctx); err != nil {
		return err
	}
	for i, tag := range tags {
		r.tell("git tag -a %s", tag)
		if r.dry {
			continue
		}
		if _, err := command(ctx, t.root, nil, "git", "tag", "-a", "-m", "perdure "+r.version, tag, "HEAD"); err != nil {
			return r.undo(ctx, tags[:i], err)
		}
	}
	if r.remote == "" {
		return nil
	}
	push := []string{"push", "--atomic", r.remote}
	for _, tag := range tags {
		push = append(push, "refs/tags/"+tag)
	}
	r.tell("git %s", strings.Join(push, " "))
	if r.dry {
		return nil
	}
	if _, err := command(ctx, t.root, nil, "git", push...); err != nil {
		return fmt.Errorf("the tags are here and not at %s; push them again by the command above: %w", r.remote, err)
	}
	return nil
}

// absent returns an error if one of the tags exists, here or at the remote.
func (r *release) absent(ctx context.Context, tags []string) error {
	where := [][]string{append([]string{"tag", "--list"}, tags...)}
	if r.remote != "" {
		where = append(where, append([]string{"ls-remote", "--tags", r.remote}, tags...))
	}
	for _, args := range where {
		found, err := command(ctx, r.tree.root, nil, "git", args...)
		if err != nil {
			return err
		}
		if found != "" {
			return fmt.Errorf("version %s exists; a version is never changed, take the next one:\n%s", r.version, strings.TrimSpace(found))
		}
	}
	return nil
}

// undo removes the tags that were made before one has failed.
func (r *release) undo(ctx context.Context, made []string, cause error) error {
	if len(made) == 0 {
		return cause
	}
	args := append([]string{"tag", "--delete"}, made...)
	if _, err := command(context.WithoutCancel(ctx), r.tree.root, nil, "git", args...); err != nil {
		return fmt.Errorf("%w; the tags before it are left (remove them by: git %s): %w", cause, strings.Join(args, " "), err)
	}
	return cause
}

func (r *release) tell(format string, args ...any) { _, _ = fmt.Fprintf(r.out, format+"\n", args...) }
