output "hub_address" {
  description = "The hub's public address."
  value       = module.hub.address
}

output "hub_role_arn" {
  description = "The hub's role, for the module `discovery` in other accounts."
  value       = module.hub.role_arn
}

output "hub_public_key" {
  description = "The hub's public key: with its address, what spokes in other regions and accounts are told."
  value       = var.hub_public_key
}

output "hub_interface" {
  description = "The hub's interface: the target of further routes to the privnet."
  value       = module.hub.interface
}

output "hub_security_group_id" {
  description = "The hub's security group."
  value       = module.hub.security_group_id
}

output "hub_group" {
  description = "The hub's Auto Scaling group."
  value       = module.hub.group
}

output "vpcs" {
  description = "Each VPC, by name, with its zones, subnets and private route tables."
  value       = merge({ hub = module.hub_vpc }, module.client_vpc)
}

output "spokes" {
  description = "The spokes of each VPC, by its name: their groups, security group, role and addresses."
  value       = merge({ hub = module.hub_nat }, module.client_spokes)
}
