//! Lines as strongSwan 5.9.8 wrote them, two charons in network namespaces, the
//! initiator with `aes256gcm16-prfsha384-ecp384` and `aes256gcm16-ecp384`. Only the
//! lines of groups IKE, CFG and KNL, without those that appear in every handshake.

use super::*;

/// The last diagnosis of such lines of one SA.
fn diagnose(connection: &str, lines: &[&str]) -> Option<Diagnosis> {
    let mut reader = LogReader::default();
    let mut last = None;
    for text in lines {
        let line = LogLine {
            group: "IKE".to_owned(),
            connection: Some(connection.to_owned()),
            sa: Some(UniqueId(12)),
            text: (*text).to_owned(),
        };
        last = reader.read(&line).or(last);
    }
    last
}

fn sentence(lines: &[&str]) -> String {
    diagnose("privnet-dc", lines).map_or_else(String::new, |it| it.failure.to_string())
}

const INITIATED: &str = "initiating IKE_SA privnet-dc[12] to 192.0.2.2";
const CALLED: &str = "192.0.2.1 is initiating an IKE_SA";
const AGREED: &str = "selected proposal: IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/ECP_384";
const LOOKING: &str = "looking for peer configs matching 192.0.2.2[%any]...192.0.2.1[a.test]";
const UP: &str = "IKE_SA privnet-dc[12] established between 192.0.2.1[a.test]...192.0.2.2[b.test]";

#[test]
fn a_handshake_that_succeeds_is_no_failure() {
    let lines = [
        INITIATED,
        AGREED,
        "remote host is behind NAT",
        "authentication of 'a.test' (myself) with pre-shared key",
        "establishing CHILD_SA privnet-dc{7}",
        "authentication of 'b.test' with pre-shared key successful",
        UP,
        "scheduling rekeying in 14000s",
        "maximum IKE_SA lifetime 15440s",
        "selected proposal: ESP:AES_GCM_16_256/NO_EXT_SEQ",
        "CHILD_SA privnet-dc{7} established with SPIs 4755d089_i e9a297e2_o and TS 10.1.0.0/16 \
         === 10.2.0.0/16",
        "certificate status is not available",
        "sending DPD request",
        "retransmit 1 of request with message ID 0",
        "deleting IKE_SA privnet-dc[12] between 192.0.2.1[a.test]...192.0.2.2[b.test]",
        "IKE_SA deleted",
    ];
    assert_eq!(diagnose("privnet-dc", &lines), None);
}

#[test]
fn ike_proposals_that_differ() {
    let refused = [INITIATED, "received NO_PROPOSAL_CHOSEN notify error"];
    assert_eq!(
        sentence(&refused),
        "no matching proposal for IKE: the peer took none of ours (strongSwan answers the same \
         when it has no connection for our address)"
    );
    let failure = diagnose("privnet-dc", &refused).map(|it| it.failure);
    let failure = failure.map(|it| it.with_ours("aes256gcm16-prfsha384-ecp384").to_string());
    assert_eq!(
        failure.as_deref(),
        Some(
            "no matching proposal for IKE: we offered aes256gcm16-prfsha384-ecp384, and the peer \
             took none (strongSwan answers the same when it has no connection for our address)"
        )
    );
    let lines = [
        CALLED,
        "received proposals: IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/ECP_384",
        "configured proposals: IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048",
        "remote host is behind NAT",
        "received proposals unacceptable",
    ];
    let found = diagnose("(unnamed)", &lines);
    // Nobody has said who it is: the address is all there is.
    let known = found
        .as_ref()
        .map(|it| (&it.connection, it.remote.as_deref()));
    assert_eq!(known, Some((&None, Some("192.0.2.1"))));
    assert_eq!(
        found.map(|it| it.failure.to_string()).as_deref(),
        Some(
            "no matching proposal for IKE: the peer offered \
             IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/ECP_384, we have \
             IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048"
        )
    );
}

#[test]
fn esp_proposals_that_differ() {
    let lines = [
        INITIATED,
        AGREED,
        "establishing CHILD_SA privnet-dc{8}",
        UP,
        "received NO_PROPOSAL_CHOSEN notify, no CHILD_SA built",
        "failed to establish CHILD_SA, keeping IKE_SA",
    ];
    let words = "no matching proposal for ESP: the peer took none of ours";
    assert_eq!(sentence(&lines), words);
    let lines = [
        CALLED,
        LOOKING,
        UP,
        "received proposals: ESP:AES_GCM_16_256/NO_EXT_SEQ",
        "configured proposals: ESP:AES_CBC_128/HMAC_SHA2_256_128/MODP_2048/NO_EXT_SEQ",
        "no acceptable proposal found",
        "failed to establish CHILD_SA, keeping IKE_SA",
    ];
    assert_eq!(
        sentence(&lines),
        "no matching proposal for ESP: the peer offered ESP:AES_GCM_16_256/NO_EXT_SEQ, we have \
         ESP:AES_CBC_128/HMAC_SHA2_256_128/MODP_2048/NO_EXT_SEQ"
    );
}

#[test]
fn pfs_groups_that_differ_show_at_the_first_rekey() {
    let lines = [
        "establishing CHILD_SA privnet-dc{17} reqid 1",
        "received NO_PROPOSAL_CHOSEN notify, no CHILD_SA built",
        "failed to establish CHILD_SA, keeping IKE_SA",
        "CHILD_SA rekeying failed, trying again in 13 seconds",
    ];
    assert_eq!(
        sentence(&lines),
        "no matching proposal for ESP when rekeying (one side's PFS group differs or is \
         missing): the peer took none of ours"
    );
    let lines = [
        "received proposals: ESP:AES_GCM_16_256/ECP_384/NO_EXT_SEQ",
        "configured proposals: ESP:AES_GCM_16_256/NO_EXT_SEQ",
        "no acceptable proposal found",
        "failed to establish CHILD_SA, keeping IKE_SA",
    ];
    assert_eq!(
        sentence(&lines),
        "no matching proposal for ESP when rekeying (one side's PFS group differs or is \
         missing): the peer offered ESP:AES_GCM_16_256/ECP_384/NO_EXT_SEQ, we have \
         ESP:AES_GCM_16_256/NO_EXT_SEQ"
    );
}

#[test]
fn preshared_keys_that_differ() {
    let lines = [
        CALLED,
        AGREED,
        LOOKING,
        "selected peer config 'privnet-dc'",
        "tried 1 shared key for '%any' - 'a.test', but MAC mismatched",
    ];
    let words = "wrong preshared key: a.test uses another one than we have for it";
    assert_eq!(sentence(&lines), words);
    // The peer does not say what it did not like.
    let refused = [
        INITIATED,
        AGREED,
        "received AUTHENTICATION_FAILED notify error",
    ];
    assert_eq!(
        sentence(&refused),
        "the peer refused our authentication: the preshared key or certificate is not the one it \
         expects, or it has no connection for our identity"
    );
    let lines = [CALLED, LOOKING, "no shared key found for '%any' - 'a.test'"];
    assert_eq!(
        sentence(&lines),
        "a.test uses a preshared key, and we have none for it (are certificates configured on \
         this side?)"
    );
}

#[test]
fn identities_that_differ() {
    let lines = [
        CALLED,
        "looking for peer configs matching 192.0.2.2[nobody.test]...192.0.2.1[a.test]",
        "no matching peer config found",
    ];
    assert_eq!(
        sentence(&lines),
        "identities differ: the peer says it is a.test and asks for nobody.test; no connection is \
         configured for these two"
    );
    let unknown = ["no IKE config found for 192.0.2.2...192.0.2.1, sending NO_PROPOSAL_CHOSEN"];
    assert_eq!(
        sentence(&unknown),
        "no connection is configured for 192.0.2.1"
    );
}

#[test]
fn certificates() {
    let lines = [
        CALLED,
        "received end entity cert \"O=Privnet, CN=a.test\"",
        "selected peer config 'privnet-dc'",
        "  using certificate \"O=Privnet, CN=a.test\"",
        "no issuer certificate found for \"O=Privnet, CN=a.test\"",
        "  issuer is \"O=Other, CN=CA\"",
        "no trusted ECDSA public key found for 'a.test'",
    ];
    assert_eq!(
        sentence(&lines),
        "the peer's certificate O=Privnet, CN=a.test is signed by O=Other, CN=CA, which is not \
         the configured authority"
    );
    let lines = [
        "  using certificate \"O=Privnet, CN=a.test\"",
        "  using trusted ca certificate \"O=Privnet, CN=CA\"",
        "subject certificate invalid (valid from Nov 21 17:31:17 2026 to Nov 20 17:31:17 2026)",
        "no trusted ECDSA public key found for 'a.test'",
    ];
    assert_eq!(
        sentence(&lines),
        "a certificate on the peer's side is not valid now: valid from Nov 21 17:31:17 2026 to \
         Nov 20 17:31:17 2026"
    );
    // Signed by an authority that is trusted for another connection.
    let lines = [
        "authentication of 'fw.test' with ECDSA_WITH_SHA384_DER successful",
        "constraint check failed: peer not authenticated by CA 'O=other, CN=CA'",
        "selected peer config 'privnet-dc' unacceptable: constraint checking failed",
        "no alternative config found",
    ];
    assert_eq!(
        sentence(&lines),
        "the peer proved who it is, but not as configured here: peer not authenticated by CA \
         'O=other, CN=CA'"
    );
    let lines = ["no trusted ECDSA public key found for 'a.test'"];
    assert_eq!(
        sentence(&lines),
        "no trusted certificate proves that the peer is a.test"
    );
    let lines = ["no private key found for 'a.test'"];
    assert_eq!(
        sentence(&lines),
        "the private key of our certificate is missing (a.test)"
    );
}

#[test]
fn selectors_that_differ() {
    let refused = [
        INITIATED,
        UP,
        "received TS_UNACCEPTABLE notify, no CHILD_SA built",
    ];
    assert_eq!(
        sentence(&refused),
        "selectors rejected: the peer is not configured for these CIDRs (TS_UNACCEPTABLE)"
    );
    let asked = ["traffic selectors 10.2.0.0/16 === 10.1.0.0/16 unacceptable"];
    assert_eq!(
        sentence(&asked),
        "selectors differ: the peer asked for 10.2.0.0/16 === 10.1.0.0/16 (ours === its), which \
         is not configured here"
    );
}

#[test]
fn silence_before_and_after_the_handshake() {
    let lines = [
        INITIATED,
        "retransmit 3 of request with message ID 0",
        "giving up after 3 retransmits",
    ];
    let words = "peer does not answer: it is down, or UDP 500 or 4500 is blocked on the way";
    assert_eq!(sentence(&lines), words);
    let again = "establishing IKE_SA failed, peer not responding";
    assert_eq!(sentence(&[&lines[..], &[again]].concat()), words);
    let lines = [
        INITIATED,
        UP,
        "sending DPD request",
        "giving up after 3 retransmits",
    ];
    assert_eq!(sentence(&lines), "peer does not answer any more");
    // The line of the handshake was before our time.
    assert_eq!(sentence(&lines[2..]), "peer does not answer any more");
    assert_eq!(
        sentence(&["received DELETE for IKE_SA privnet-dc[12]"]),
        "closed by the peer"
    );
}

#[test]
fn esp_that_the_kernel_does_not_take() {
    let lines = [
        UP,
        "selected proposal: ESP:AES_GCM_16_256/NO_EXT_SEQ",
        "received netlink error: Function not implemented (38)",
        "unable to add SAD entry with SPI e6ab699b (FAILED)",
        "unable to install inbound and outbound IPsec SA (SAD) in kernel",
        "failed to establish CHILD_SA, keeping IKE_SA",
    ];
    assert_eq!(
        sentence(&lines),
        "IKE is up, but ESP could not be installed: Function not implemented (38)"
    );
}

#[test]
fn sas_are_not_mixed_up_and_not_remembered_for_ever() {
    let mut reader = LogReader::default();
    let mut line = |sa: u64, text: &str| {
        reader.read(&LogLine {
            group: "CFG".to_owned(),
            connection: None,
            sa: Some(UniqueId(sa)),
            text: text.to_owned(),
        })
    };
    line(1, "received proposals: IKE:A");
    line(2, "received proposals: IKE:B");
    let theirs = |found: Option<Diagnosis>| match found.map(|it| it.failure) {
        Some(IkeFailure::NoCommonIkeProposal { theirs, .. }) => theirs,
        _ => None,
    };
    let first = line(1, "received proposals unacceptable");
    assert_eq!(theirs(first).as_deref(), Some("IKE:A"));
    for sa in 3..3 + MOST_REMEMBERED as u64 {
        line(sa, "received proposals: IKE:C");
    }
    assert_eq!(theirs(line(2, "received proposals unacceptable")), None);
    let count = reader.sas.len();
    assert!(count <= MOST_REMEMBERED, "{count}");
}
