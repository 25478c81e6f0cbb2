//! The config file, read again.

use anyhow::{Context, Result};
use privnet_ec2::{Discovery, ParameterStore};
use privnet_model::config::hub::{HubConfig, IkeCredentials, SecretSource, SiteConfig, SiteLink};
use privnet_model::config::ipsec::IpsecConfig;
use privnet_model::ipsec::{Authentication, IkeCredential};
use privnet_reconcile::fleet::{Site, SiteSecret};
use privnet_runtime::poll_clock::PollClock;
use privnet_runtime::{key_file, service};
use tracing::{error, info, warn};

use super::{Hub, site_keys};
use crate::restart::needs_restart;

impl Hub {
    pub(super) async fn reload(&mut self) {
        service::reloading();
        match self.read_config() {
            Ok((config, sites)) => {
                for key in needs_restart(&self.config, &config) {
                    warn!(
                        key,
                        "changed in the config file; it takes effect at a restart"
                    );
                }
                self.discovery =
                    Discovery::new(&self.sdk, self.router.identity(), &config.discovery);
                self.clock = PollClock::new(config.discovery.interval);
                self.router.set_config(config.privnet.clone(), None);
                let store = ParameterStore::from_env(&self.router.identity().region);
                let secret = config.trust.preshared_key.as_ref();
                let copy = key_file::fleet_secret_copy(&self.config.private_key);
                self.preshared.configure(secret, &copy, store.reader());
                self.config = HubConfig {
                    privnet: config.privnet,
                    discovery: config.discovery,
                    trust: config.trust,
                    policy: config.policy,
                    ipsec: IpsecConfig {
                        id: config.ipsec.id,
                        ..self.config.ipsec.clone()
                    },
                    sites: config.sites,
                    ..self.config.clone()
                };
                let before = std::mem::replace(&mut self.sites, sites);
                self.site_keys.configure(&mut self.sites, &before);
                self.decide_anew();
                self.reconcile().await;
                info!("config read again");
            }
            Err(error) => {
                error!("the config file is not taken, the one before stays in force: {error:#}");
                self.poll.request();
            }
        }
        service::ready(&self.summary());
    }

    fn read_config(&self) -> Result<(HubConfig, Vec<Site>)> {
        let config = self.file.read::<Self>()?;
        let sites = load_sites(&config.sites)?;
        Ok((config, sites))
    }
}

/// The same at the start, when there is nothing to go on with: a site whose files cannot be
/// read must not cost the others theirs.
pub(super) fn load_readable_sites(sites: &[SiteConfig]) -> Vec<Site> {
    let read = sites.iter().map(|config| {
        let secret = load_secret(&config.link).unwrap_or_else(|error| {
            let problem = format!("{error:#}");
            error!(
                site = config.name,
                problem, "no tunnel before this is right and the config file is read again"
            );
            SiteSecret::Unreadable { problem }
        });
        Site {
            config: config.clone(),
            secret,
        }
    });
    read.collect()
}

fn load_sites(sites: &[SiteConfig]) -> Result<Vec<Site>> {
    sites
        .iter()
        .map(|config| {
            let secret = load_secret(&config.link);
            Ok(Site {
                config: config.clone(),
                secret: secret.with_context(|| format!("site {}", config.name))?,
            })
        })
        .collect()
}

/// What is in the files that it names; of what is in SSM, [`site_keys`] knows more.
fn load_secret(link: &SiteLink) -> Result<SiteSecret> {
    Ok(match link {
        SiteLink::Wireguard(link) => match &link.preshared_key {
            None => SiteSecret::Wireguard(None),
            Some(SecretSource::File(path)) => {
                let key = key_file::read_preshared_key(path);
                SiteSecret::Wireguard(Some(key.context("preshared_key")?))
            }
            Some(SecretSource::Ssm(name)) => site_keys::unread(name),
        },
        SiteLink::Ipsec(link) => match &link.credentials {
            IkeCredentials::PresharedKey(SecretSource::Ssm(name)) => site_keys::unread(name),
            IkeCredentials::PresharedKey(SecretSource::File(path)) => {
                let secret = key_file::read_ike_secret(path).context("preshared_key")?;
                SiteSecret::Ipsec {
                    authentication: Authentication::PresharedKey,
                    credential: IkeCredential::PresharedKey(secret),
                }
            }
            IkeCredentials::Certificate {
                certificate,
                private_key,
                authority,
            } => {
                let own = key_file::read_certificate(certificate).context("certificate")?;
                let authority = key_file::read_certificate(authority).context("authority")?;
                let key = key_file::read_certificate_key(private_key);
                SiteSecret::Ipsec {
                    authentication: Authentication::Certificate { own, authority },
                    credential: IkeCredential::PrivateKey(key.context("certificate_key")?),
                }
            }
        },
    })
}
