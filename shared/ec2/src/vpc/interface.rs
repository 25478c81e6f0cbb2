//! The source/destination check: EC2 drops what an interface sends or receives for
//! other addresses than its own until it is off. A spoke forwards nothing with it on.

use aws_sdk_ec2::operation::describe_network_interfaces::DescribeNetworkInterfacesOutput;
use aws_sdk_ec2::operation::modify_network_interface_attribute::builders::ModifyNetworkInterfaceAttributeFluentBuilder;
use aws_sdk_ec2::types::AttributeBooleanValue;
use privnet_model::id::InterfaceId;

use crate::asking::Asking;
use crate::error::{Ec2Error, Operation, Reason};
use crate::filter;
use crate::vpc::Vpc;

/// Where `ami/iam` allows this.
const POLICY: &str = "source-dest-check-policy.json";

/// What [`Vpc::switch_source_dest_check_off`] had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceDestCheck {
    /// The check was off before; nothing was changed.
    WasOff,
    /// The check was on.
    SwitchedOff,
}

impl Vpc {
    /// Whether EC2 checks sources and destinations at this interface of the VPC.
    ///
    /// # Errors
    /// There is no answer, or none about this interface.
    pub async fn source_dest_check(&self, interface: &InterfaceId) -> Result<bool, Ec2Error> {
        self.check_at(&self.asking(), interface).await
    }

    /// Has EC2 check them no more.
    ///
    /// # Errors
    /// As far as is known, nothing was changed.
    pub async fn switch_source_dest_check_off(
        &self,
        interface: &InterfaceId,
    ) -> Result<SourceDestCheck, Ec2Error> {
        let asking = self.asking();
        if !self.check_at(&asking, interface).await? {
            return Ok(SourceDestCheck::WasOff);
        }
        let request = self.check_off(interface).customize();
        let answer = request.interceptor(asking.budget.clone()).send();
        let operation = Operation::ModifyNetworkInterfaceAttribute;
        asking
            .once(operation, answer)
            .await
            .map_err(|error| about(error, interface))?;
        Ok(SourceDestCheck::SwitchedOff)
    }

    async fn check_at(
        &self,
        asking: &Asking<'_>,
        interface: &InterfaceId,
    ) -> Result<bool, Ec2Error> {
        let operation = Operation::DescribeNetworkInterfaces;
        let mut check = None;
        // EC2 refuses a size of pages where it is given ids; by a filter it says
        // of an unknown one nothing.
        let request = self
            .client
            .describe_network_interfaces()
            .filters(self.inside())
            .filters(filter::interface(interface));
        asking
            .pages(
                operation,
                |token| {
                    let request = request.clone().set_next_token(token).customize();
                    request.interceptor(asking.budget.clone()).send()
                },
                DescribeNetworkInterfacesOutput::next_token,
                |page| {
                    let described = page.network_interfaces().iter();
                    let own = |id: Option<&str>| id == Some(interface.as_str());
                    check = described
                        .filter(|described| own(described.network_interface_id()))
                        .find_map(|described| described.source_dest_check())
                        .or(check);
                    Ok(())
                },
            )
            .await
            .map_err(|error| about(error, interface))?;
        check.ok_or_else(|| {
            let reason = Reason::unreadable(format_args!("no word of its check in {}", self.id));
            about(asking.found(operation, reason), interface)
        })
    }

    pub(super) fn check_off(
        &self,
        interface: &InterfaceId,
    ) -> ModifyNetworkInterfaceAttributeFluentBuilder {
        self.client
            .modify_network_interface_attribute()
            .network_interface_id(interface.as_str())
            .source_dest_check(AttributeBooleanValue::builder().value(false).build())
    }
}

pub(super) fn about(error: Ec2Error, interface: &InterfaceId) -> Ec2Error {
    error.about(format!("network interface {interface}"), POLICY)
}
