//! The two ends of a proof of identity (`privnet_model::enrol::Proof`): a spoke
//! signs a question to STS, and the hub asks it.
//!
//! The spoke sends nothing to STS, and the hub cannot sign in its name. What the
//! hub sends was checked and built anew by `privnet_reconcile::proof`, which also
//! judges the answer; nothing here looks at either.

use std::time::{Duration, SystemTime};

use privnet_model::enrol::{HUB_KEY_HEADER, Proof, QUESTION, QUESTION_TYPE, SPOKE_KEY_HEADER};
use privnet_model::id::Region;
use privnet_model::key::PublicKey;
use zeroize::Zeroizing;

use crate::context::SdkContext;
use crate::signed::{CallError, Request, Service};

/// STS answers in some 10 ms, from another region's hub within 0.5 s.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer has about 500 bytes.
const MOST_BYTES: usize = 16 * 1024;

/// Signs proofs with the credentials of this instance's role.
#[derive(Debug, Clone)]
pub struct ProofSigner {
    context: SdkContext,
    region: Region,
}

impl ProofSigner {
    /// For STS in this region. Sends no request.
    pub fn new(context: &SdkContext, region: &Region) -> Self {
        Self {
            context: context.clone(),
            region: region.clone(),
        }
    }

    /// A proof that whoever has this spoke's key has the credentials of this
    /// instance's role, for this hub, now.
    ///
    /// # Errors
    /// There are no credentials, or they cannot be had now.
    pub async fn sign(&self, spoke: &PublicKey, hub: &PublicKey) -> Result<Proof, CallError> {
        let (url, _) = self.context.endpoint(Service::Sts, &self.region);
        let mut request = question(url, spoke, hub);
        let now = SystemTime::now();
        let context = &self.context;
        let signing = context.sign(Service::Sts, &self.region, &mut request, now);
        signing.await?;
        Ok(signed(request))
    }
}

/// The question, not yet signed.
pub(crate) fn question(url: String, spoke: &PublicKey, hub: &PublicKey) -> Request {
    let header = |name: &str, value: String| (name.to_owned(), value);
    Request {
        url,
        headers: vec![
            header("content-type", QUESTION_TYPE.to_owned()),
            header(SPOKE_KEY_HEADER, spoke.to_string()),
            header(HUB_KEY_HEADER, hub.to_string()),
        ],
        body: QUESTION.to_owned(),
    }
}

pub(crate) fn signed(request: Request) -> Proof {
    Proof {
        url: request.url,
        method: "POST".to_owned(),
        headers: request.headers,
        body: request.body,
    }
}

/// Takes proofs to STS.
#[derive(Debug, Clone)]
pub struct ProofCourier {
    context: SdkContext,
    endpoint: Option<String>,
}

/// What STS said.
pub struct StsAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body, whatever it is.
    pub body: Zeroizing<Vec<u8>>,
}

impl ProofCourier {
    /// One whose own home is this region. Sends no request.
    pub fn new(context: &SdkContext, home: &Region) -> Self {
        let (url, named) = context.endpoint(Service::Sts, home);
        Self {
            context: context.clone(),
            endpoint: named.then_some(url),
        }
    }

    /// Where alone STS is asked, when this host's environment names a place;
    /// else it is where AWS has it.
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Asks STS, once, for at most 10 s. Redirects are not followed.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn ask(
        &self,
        url: String,
        headers: Vec<(String, String)>,
        body: &str,
    ) -> Result<StsAnswer, CallError> {
        let request = Request {
            url,
            headers,
            body: body.to_owned(),
        };
        let answer = self.context.send(request, PATIENCE, MOST_BYTES).await?;
        Ok(StsAnswer {
            status: answer.status,
            body: answer.body,
        })
    }
}
