//! The way to the cluster, and what is read there; refusals as sentences that say what to do.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;

use fettle_crds::content;
use fettle_runtime::chain;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::{Api, Client, Config, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::failure::{Code, Failure};
use crate::objects::{Objects, Reference};
use crate::output;

/// The label that the Leases of bridges carry.
const BRIDGES: &str = "fettle.dev/bridge=true";
/// As kubectl lists: the API server answers each part soon.
const PAGE: u32 = 500;

/// Which cluster, as whom, which namespace: as kubectl takes it.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Which cluster")]
pub struct ClusterArgs {
    /// The namespace that Fettle serves [default: that of the context]
    #[arg(long, short, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// The context of the kubeconfig to use [default: its current one]
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig to use [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The user to act as
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonate: Option<String>,
}

/// A namespace of a cluster.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
    pub namespace: String,
    /// Where the API server is, for errors.
    url: String,
}

impl Cluster {
    /// # Errors
    /// No kubeconfig says where the cluster is, or it cannot be used. Nothing is asked of the cluster yet.
    pub async fn connect(args: &ClusterArgs) -> Result<Self, Failure> {
        let cannot = |what: &str, error: &(dyn std::error::Error + 'static)| {
            Failure::new(Code::Error, format!("{what}: {}", chain(error)))
        };
        let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match (&args.kubeconfig, &args.context) {
            (Some(path), _) => {
                let unusable = format!("--kubeconfig {} cannot be used", path.display());
                let file = Kubeconfig::read_from(path).map_err(|error| cannot(&unusable, &error))?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| cannot(&unusable, &error))?
            }
            (None, Some(context)) => Config::from_kubeconfig(&options)
                .await
                .map_err(|error| cannot(&format!("--context {context} cannot be used"), &error))?,
            (None, None) => Config::infer().await.map_err(|error| {
                cannot("there is no way to a cluster: name one with --kubeconfig, or by KUBECONFIG", &error)
            })?,
        };
        if let Some(user) = &args.impersonate {
            config.auth_info.impersonate = Some(user.clone());
        }
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let url = config.cluster_url.to_string();
        let client = fettle_runtime::client(config).map_err(|error| cannot("the kubeconfig cannot be used", &error))?;
        Ok(Self { client, namespace, url })
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// One object, by its name.
    ///
    /// # Errors
    /// There is none, it may not be read, or the API server is away.
    pub async fn get<K>(&self, name: &str) -> Result<K, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let found = self.api::<K>().get_opt(name).await.map_err(|error| self.explain::<K>("get", &error))?;
        found.ok_or_else(|| self.no_such::<K>(name))
    }

    /// That there is no such object, and how to find out what there is.
    pub fn no_such<K: Resource<DynamicType = ()>>(&self, name: &str) -> Failure {
        let (kind, plural, namespace) = (K::kind(&()), K::plural(&()), &self.namespace);
        let message = format!(
            "there is no {kind} {name} in namespace {namespace}: `kubectl get {plural} -A` lists all, -n names another namespace"
        );
        Failure::new(Code::NotFound, message)
    }

    /// All objects of a kind. Those that cannot be read are left out, and told of.
    ///
    /// # Errors
    /// They may not be read, or the API server is away.
    pub async fn list<K>(&self, params: &ListParams) -> Result<BTreeMap<String, K>, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let listed = self.list_or_refusal(params).await;
        listed.map_err(|error| self.explain::<K>("list", &error))
    }

    async fn list_or_refusal<K>(&self, params: &ListParams) -> kube::Result<BTreeMap<String, K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<DeserializeGuard<K>> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut all = BTreeMap::new();
        let mut params = params.clone().limit(PAGE);
        loop {
            let page = api.list(&params).await?;
            for DeserializeGuard(object) in page.items {
                match object {
                    Ok(object) => {
                        all.insert(object.name_any(), object);
                    }
                    Err(invalid) => {
                        let (kind, name) = (K::kind(&()), invalid.metadata.name.as_deref().unwrap_or_default());
                        output::note(&format!("{kind} {name} cannot be read, and is left out: {invalid}"));
                    }
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// All that the planner looks at. What may not be read is left out where it can be done without.
    ///
    /// # Errors
    /// The objects of Fettle may not be read, or the API server is away.
    pub async fn objects(&self) -> Result<Objects, Failure> {
        let all = ListParams::default();
        let (devices, groups, rollouts, firmwares, profiles) =
            tokio::try_join!(self.list(&all), self.list(&all), self.list(&all), self.list(&all), self.list(&all))?;
        let mut objects = Objects { devices, groups, rollouts, firmwares, profiles, ..Objects::default() };
        self.beside(&mut objects).await?;
        Ok(objects)
    }

    /// Reads anew what is no object of Fettle.
    ///
    /// # Errors
    /// The API server is away.
    pub async fn rest(&self, objects: &mut Objects) -> Result<(), Failure> {
        objects.config_maps.clear();
        objects.secrets.clear();
        objects.forbidden.clear();
        self.beside(objects).await
    }

    /// What is no object of Fettle, and what it looks at nevertheless.
    async fn beside(&self, objects: &mut Objects) -> Result<(), Failure> {
        let bridges = ListParams::default().labels(BRIDGES);
        let contents = ListParams::default().labels(content::LABEL);
        let (leases, contents) =
            tokio::join!(self.list_or_refusal::<Lease>(&bridges), self.list_or_refusal::<Secret>(&contents));
        objects.leases = self.allowed::<Lease, _>(leases)?.map(|leases| leases.into_values().collect());
        objects.contents = self.allowed::<Secret, _>(contents)?.unwrap_or_default();
        self.refer(objects).await
    }

    /// Reads what profiles refer to, and is not there yet.
    ///
    /// # Errors
    /// The API server is away.
    pub async fn refer(&self, objects: &mut Objects) -> Result<(), Failure> {
        let references: Vec<Reference> = objects.profiles.values().filter_map(Reference::of).collect();
        for reference in references {
            let is_allowed = match &reference {
                Reference::ConfigMap(name) if !objects.config_maps.contains_key(name) => {
                    let found = self.allowed::<ConfigMap, _>(self.api::<ConfigMap>().get_opt(name).await)?;
                    objects.config_maps.extend(found.clone().flatten().map(|map| (name.clone(), map)));
                    found.is_some()
                }
                Reference::Secret(name) if !objects.secrets.contains_key(name) => {
                    let found = self.allowed::<Secret, _>(self.api::<Secret>().get_opt(name).await)?;
                    objects.secrets.extend(found.clone().flatten().map(|secret| (name.clone(), secret)));
                    found.is_some()
                }
                Reference::ConfigMap(_) | Reference::Secret(_) => true,
            };
            if !is_allowed {
                objects.forbidden.insert(reference);
            }
        }
        Ok(())
    }

    /// What may not be read is none.
    fn allowed<K: Resource<DynamicType = ()>, T>(&self, result: kube::Result<T>) -> Result<Option<T>, Failure> {
        match result {
            Ok(found) => Ok(Some(found)),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
            Err(error) => Err(self.explain::<K>("read", &error)),
        }
    }

    /// What a refusal of the API server means to a person.
    pub fn explain<K: Resource<DynamicType = ()>>(&self, verb: &str, error: &kube::Error) -> Failure {
        let (kind, plural, namespace) = (K::kind(&()), K::plural(&()), &self.namespace);
        match error {
            kube::Error::Api(status) if status.code == 404 => Failure::new(
                Code::Error,
                format!("the cluster at {} does not know the kind {kind}: is Fettle installed there?", self.url),
            ),
            kube::Error::Api(status) if status.code == 401 => Failure::new(
                Code::Error,
                format!("the cluster at {} does not accept your credentials: log in again", self.url),
            ),
            kube::Error::Api(status) if status.code == 403 => Failure::new(
                Code::Error,
                format!(
                    "you may not {verb} {plural} in namespace {namespace}: ask for a role that lets you ({status})"
                ),
            ),
            kube::Error::Api(status) => {
                Failure::new(Code::Refused, format!("the API server does not {verb} the {kind}: {}", status.message))
            }
            error => {
                Failure::new(Code::Error, format!("the cluster at {} does not answer: {}", self.url, chain(error)))
            }
        }
    }
}
