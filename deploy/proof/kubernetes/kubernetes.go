// Package kubernetes checks the manifests: every field is one of the API's own
// types, kustomize builds them, and what they say fits together.
package kubernetes

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	admission "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	kustomize "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"linkcancel/deploy/proof/rules"
)

// Dir is the folder of the manifests.
const Dir = "deploy/kubernetes"

const kustomization = "kustomization.yaml"

// Files are the manifests, by their path under Dir.
type Files map[string][]byte

// Read reads all manifests under a folder.
func Read(dir string) (Files, error) {
	files := Files{}
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if ext := path.Ext(name); ext != ".yaml" && ext != ".yml" {
			return nil
		}
		files[name], err = fs.ReadFile(root, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the manifests: %w", err)
	}
	return files, nil
}

// decoder takes exactly the fields of the types it knows.
func decoder() (runtime.Decoder, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme,
		monitoringv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register types: %w", err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer(), nil
}

// Decode reads the objects of a manifest strictly: an unknown kind or field, or
// a field that is there twice, is an error.
func Decode(name string, manifest []byte) ([]runtime.Object, error) {
	d, err := decoder()
	if err != nil {
		return nil, err
	}
	var all []runtime.Object
	documents := yaml.NewDecoder(bytes.NewReader(manifest))
	for {
		var node yaml.Node
		if err := documents.Decode(&node); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		b, err := yaml.Marshal(&node)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		o, _, err := d.Decode(b, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, o)
	}
}

// Lint checks the manifests as they are, and as kustomize builds them.
func (f Files) Lint(rulesFile []byte) error {
	var all []error
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if path.Base(name) == kustomization {
			all = append(all, f.lintKustomization(name))
			continue
		}
		_, err := Decode(name, f[name])
		all = append(all, err)
	}
	all = append(all, f.lintReached())
	if err := errors.Join(all...); err != nil {
		return err
	}
	for _, components := range [][]string{nil, f.components()} {
		objects, err := f.Build(components...)
		if err != nil {
			return err
		}
		if err := lintObjects(objects, rulesFile); err != nil {
			return fmt.Errorf("with the components %v: %w", components, err)
		}
	}
	return nil
}

// components are the folders of the components, which an overlay may add.
func (f Files) components() []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if path.Base(name) == kustomization && bytes.Contains(f[name], []byte("kind: Component")) {
			all = append(all, path.Dir(name))
		}
	}
	return all
}

func (f Files) lintKustomization(name string) error {
	var k kustomize.Kustomization
	if err := k.Unmarshal(f[name]); err != nil { // strict
		return fmt.Errorf("%s: %w", name, err)
	}
	if old := k.CheckDeprecatedFields(); len(*old) > 0 {
		return fmt.Errorf("%s: %v", name, *old)
	}
	return nil
}

// lintReached: every manifest is part of a kustomization.
func (f Files) lintReached() error {
	var all []error
	reached := map[string]bool{}
	for name, b := range f {
		if path.Base(name) != kustomization {
			continue
		}
		var k kustomize.Kustomization
		if err := k.Unmarshal(b); err != nil {
			continue // reported elsewhere
		}
		for _, r := range append(append(k.Resources, k.Components...), patches(k)...) {
			reached[path.Join(path.Dir(name), r)] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if path.Base(name) != kustomization && !reached[name] {
			all = append(all, fmt.Errorf("%s is in no kustomization", name))
		}
	}
	return errors.Join(all...)
}

func patches(k kustomize.Kustomization) []string {
	var all []string
	for _, p := range k.Patches {
		all = append(all, p.Path)
	}
	return all
}

// Build is what `kubectl apply -k` would send for an overlay with some components, decoded strictly.
func (f Files) Build(components ...string) ([]runtime.Object, error) {
	disk := filesys.MakeFsInMemory()
	overlay := kustomize.Kustomization{
		TypeMeta:  kustomize.TypeMeta{APIVersion: kustomize.KustomizationVersion, Kind: kustomize.KustomizationKind},
		Resources: []string{"../base"},
	}
	for _, dir := range components {
		overlay.Components = append(overlay.Components, path.Join("../base", dir))
	}
	b, err := yaml.Marshal(overlay)
	if err != nil {
		return nil, fmt.Errorf("write an overlay: %w", err)
	}
	if err := disk.WriteFile("/overlay/"+kustomization, b); err != nil {
		return nil, fmt.Errorf("write an overlay: %w", err)
	}
	for name, b := range f {
		if err := disk.WriteFile(filepath.Join("/base", name), b); err != nil {
			return nil, fmt.Errorf("copy %s: %w", name, err)
		}
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(disk, "/overlay")
	if err != nil {
		return nil, fmt.Errorf("kustomize build: %w", err)
	}
	b, err = built.AsYaml()
	if err != nil {
		return nil, fmt.Errorf("kustomize build: %w", err)
	}
	return Decode("kustomize build", b)
}

// pods are the templates of pods, by the kind and name of what makes them.
func pods(objects []runtime.Object) map[string]*corev1.PodTemplateSpec {
	all := map[string]*corev1.PodTemplateSpec{}
	for _, o := range objects {
		switch o := o.(type) {
		case *appsv1.Deployment:
			all["Deployment "+o.Name] = &o.Spec.Template
		case *appsv1.StatefulSet:
			all["StatefulSet "+o.Name] = &o.Spec.Template
		case *batchv1.CronJob:
			all["CronJob "+o.Name] = &o.Spec.JobTemplate.Spec.Template
		}
	}
	return all
}

func lintObjects(objects []runtime.Object, rulesFile []byte) error {
	var all []error
	templates := pods(objects)
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return fmt.Errorf("make the pod security policy: %w", err)
	}
	restricted := admission.LevelVersion{Level: admission.LevelRestricted, Version: admission.LatestVersion()}
	for name, t := range templates {
		if r := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &t.ObjectMeta, &t.Spec)); !r.Allowed {
			all = append(all, fmt.Errorf("%s is not allowed by the policy restricted: %s", name, r.ForbiddenDetail()))
		}
		all = append(all, lintPod(name, &t.Spec))
	}
	kinds := map[string]int{}
	for _, o := range objects {
		kinds[reflect.TypeOf(o).Elem().Name()]++
		switch o := o.(type) {
		case *corev1.Secret:
			all = append(all, fmt.Errorf("secret %s is in the repository: only refer to it", o.Name))
		case *corev1.Service:
			all = append(all, selects("Service "+o.Name, o.Spec.Selector, templates), servicePorts(o, templates))
		case *policyv1.PodDisruptionBudget:
			all = append(all, selects("PodDisruptionBudget "+o.Name, o.Spec.Selector.MatchLabels, templates))
		case *networkingv1.NetworkPolicy:
			all = append(all, selects("NetworkPolicy "+o.Name, o.Spec.PodSelector.MatchLabels, templates))
		case *monitoringv1.ServiceMonitor:
			all = append(all, lintMonitor(o, objects))
		case *monitoringv1.PrometheusRule:
			all = append(all, lintRule(o, rulesFile))
		}
	}
	for _, kind := range []string{"Deployment", "CronJob", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "PrometheusRule"} {
		if kinds[kind] == 0 {
			all = append(all, fmt.Errorf("there is no %s", kind))
		}
	}
	return errors.Join(all...)
}

func lintPod(name string, spec *corev1.PodSpec) error {
	var all []error
	for _, c := range spec.Containers {
		if c.SecurityContext == nil || c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem {
			all = append(all, fmt.Errorf("%s: container %s can write to its root", name, c.Name))
		}
		if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
			all = append(all, fmt.Errorf("%s: container %s has no memory limit or requests no CPU", name, c.Name))
		}
		if strings.HasPrefix(name, "Deployment ") && (c.ReadinessProbe == nil || c.LivenessProbe == nil) {
			all = append(all, fmt.Errorf("%s: container %s has no probes", name, c.Name))
		}
		if strings.HasSuffix(name, "-page") && keyInPod(spec) {
			all = append(all, fmt.Errorf("%s: the API key is in a pod that does not need it", name))
		}
		for _, e := range c.Env {
			if strings.Contains(e.Name, "KEY") && !strings.HasSuffix(e.Name, "_FILE") && e.Value != "" {
				all = append(all, fmt.Errorf("%s: container %s has %s in clear", name, c.Name, e.Name))
			}
		}
	}
	return errors.Join(all...)
}

// keyInPod: the Secret or the variables of the API key are in a pod.
func keyInPod(spec *corev1.PodSpec) bool {
	for _, v := range spec.Volumes {
		if v.Secret != nil && v.Secret.SecretName == "linkcancel" {
			return true
		}
	}
	return slices.ContainsFunc(spec.Containers, func(c corev1.Container) bool {
		return len(c.EnvFrom) > 0 || slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return strings.HasPrefix(e.Name, "PLEXY_") })
	})
}

// selects: a selector finds the pods of something that is here.
func selects(name string, want map[string]string, templates map[string]*corev1.PodTemplateSpec) error {
	for _, t := range templates {
		if len(want) > 0 && labels.SelectorFromSet(want).Matches(labels.Set(t.Labels)) {
			return nil
		}
	}
	return fmt.Errorf("%s selects no pod of these manifests: %v", name, want)
}

// servicePorts: each port of a service is one of the pods' containers.
func servicePorts(s *corev1.Service, templates map[string]*corev1.PodTemplateSpec) error {
	var all []error
	for _, port := range s.Spec.Ports {
		found := false
		for _, t := range templates {
			for _, c := range t.Spec.Containers {
				found = found || slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool {
					return p.Name == port.TargetPort.StrVal && p.Name != "" || p.ContainerPort == port.TargetPort.IntVal
				})
			}
		}
		if !found {
			all = append(all, fmt.Errorf("service %s: no container has the port %s", s.Name, port.TargetPort.String()))
		}
	}
	return errors.Join(all...)
}

// lintMonitor: it finds a service and its port, and the job, which is the name of
// the service, is one that the rules look at.
func lintMonitor(m *monitoringv1.ServiceMonitor, objects []runtime.Object) error {
	selector, err := metav1.LabelSelectorAsSelector(&m.Spec.Selector)
	if err != nil {
		return fmt.Errorf("service monitor %s: %w", m.Name, err)
	}
	for _, o := range objects {
		s, ok := o.(*corev1.Service)
		if !ok || !selector.Matches(labels.Set(s.Labels)) {
			continue
		}
		for _, e := range m.Spec.Endpoints {
			if !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == e.Port }) {
				return fmt.Errorf("service monitor %s: service %s has no port %q", m.Name, s.Name, e.Port)
			}
		}
		if !strings.HasPrefix(s.Name, "linkcancel") {
			return fmt.Errorf("service %s: the rules want a job that begins with linkcancel", s.Name)
		}
		return nil
	}
	return fmt.Errorf("service monitor %s selects no service of these manifests", m.Name)
}

// lintRule: the rules are those of deploy/prometheus.
func lintRule(r *monitoringv1.PrometheusRule, rulesFile []byte) error {
	want, err := rules.Parse(rulesFile)
	if err != nil {
		return err
	}
	var have rules.Rules
	for _, g := range r.Spec.Groups {
		group := rules.Group{Name: g.Name}
		if g.Interval != nil {
			group.Interval = string(*g.Interval)
		}
		for _, a := range g.Rules {
			rule := rules.Rule{Alert: a.Alert, Expr: a.Expr.String(), Labels: a.Labels, Annotations: a.Annotations}
			if a.For != nil {
				rule.For = string(*a.For)
			}
			group.Rules = append(group.Rules, rule)
		}
		have.Groups = append(have.Groups, group)
	}
	if len(have.Groups) != len(want.Groups) {
		return fmt.Errorf("the PrometheusRule has %d groups, %s has %d", len(have.Groups), rules.File, len(want.Groups))
	}
	var all []error
	for i, g := range want.Groups {
		if !reflect.DeepEqual(g, have.Groups[i]) {
			all = append(all, fmt.Errorf("group %s of the PrometheusRule is not that of %s: %s", g.Name, rules.File, difference(g, have.Groups[i])))
		}
	}
	return errors.Join(all...)
}

// difference names the first rule that differs.
func difference(want, have rules.Group) string {
	for i, r := range want.Rules {
		if i >= len(have.Rules) || !reflect.DeepEqual(r, have.Rules[i]) {
			return "see " + r.Alert
		}
	}
	return fmt.Sprintf("%d rules, interval %s", len(have.Rules), have.Interval)
}
